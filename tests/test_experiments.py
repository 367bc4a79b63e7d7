"""Experiments: each one works, its answer agrees with its numbers, and repeating it gives the same."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import escape
from scipy.stats import bootstrap, ttest_1samp
from typer.testing import CliRunner

from convscope.cli import build_app
from convscope.comparison.compare import compare_groups
from convscope.comparison.recorded import FinishedRun, Group
from convscope.config import DataConfig, RunConfig, TrainConfig
from convscope.data.load import load_images
from convscope.data.splits import make_splits
from convscope.errors import UsageError
from convscope.experiments import LABS, dense_to_conv, distributions, memory, translation
from convscope.experiments.activation import gradient_sizes
from convscope.experiments.equal_cost import match_macs, stack_macs
from convscope.experiments.experiment import Finding, Setting
from convscope.experiments.translation import one_shift_each, shift_right
from convscope.experiments.trials import load_digits, make_variant, run_trials
from convscope.experiments.variants import CLOSE, conclude, mean_interval, seed_curves, seed_intervals, sentence
from convscope.pages.charts import draw_curves, draw_intervals
from convscope.pages.page import render_page
from convscope.pages.section import Section
from convscope.results.comparison import CANNOT_TELL
from convscope.results.panels import Curves, FeatureMaps, Heat, ImageGrid, Intervals, Table
from convscope.run.prepare import prepare
from convscope.storage.files import read_csv
from tests.support import open_page

ROOT = Path(__file__).parents[1]
QUICK = Setting(seeds=2, quick=True, jobs=1)


@cache
def found(name: str) -> Finding:
    """Return the finding of a quick experiment, computed once for all tests."""
    return LABS[name].run(QUICK, lambda _: None)


def numbers_in(tree: Any) -> Iterator[float]:  # noqa: ANN401
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for each in tree:
            yield from numbers_in(each)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield tree


@pytest.mark.parametrize("name", LABS)
def test_every_experiment_ends_in_one_sentence_with_finite_numbers(name: str) -> None:
    finding = found(name)
    assert finding.answer.endswith(".")
    assert "\n" not in finding.answer
    assert any(character.isdigit() for character in finding.answer)
    assert LABS[name].question.endswith("?")
    json.dumps(finding.numbers, allow_nan=False)
    numbers = list(numbers_in(finding.numbers))
    assert len(numbers) > 3
    assert all(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("name", LABS)
def test_every_experiment_that_trains_shows_its_spread(name: str) -> None:
    finding = found(name)
    for variant in finding.numbers.get("variants", ()):
        assert len(variant["accuracies"]) == QUICK.seeds
        assert variant["std"] == pytest.approx(np.std(variant["accuracies"], ddof=1))
    for panel in finding.panels:
        if isinstance(panel, Intervals):
            for low, value, high, points in zip(panel.low, panel.values, panel.high, panel.points, strict=True):
                assert low <= value <= high
                assert value == pytest.approx(np.mean(points))


def page_of(name: str) -> bytes:
    finding = found(name)
    section = Section("measured", LABS[name].intro, finding.panels)
    return render_page({"measured": section}, title=LABS[name].question, headline=finding.answer, origin="")


@pytest.mark.parametrize("name", LABS)
def test_every_experiment_draws_a_page(name: str) -> None:
    finding, page = found(name), page_of(name).decode()
    assert any(isinstance(panel, Intervals | Curves | Heat | FeatureMaps | ImageGrid) for panel in finding.panels)
    assert any(isinstance(panel, Table) for panel in finding.panels)
    for panel in finding.panels:
        assert escape(panel.title) in page


@pytest.mark.parametrize("name", LABS)
def test_browser_draws_the_page_without_errors_or_overflow(browser: Any, tmp_path: Path, name: str) -> None:  # noqa: ANN401
    file = tmp_path / "lab.html"
    file.write_bytes(page_of(name))
    opened = open_page(browser, file, 390)
    page = opened.page
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Array.from(document.images).every(i => i.alt && i.complete && i.naturalWidth > 0)")
    assert page.locator("figcaption").count() >= page.locator("img").count()
    assert (opened.problems, opened.requests) == ([], [])
    page.close()


def test_an_experiment_gives_the_same_answer_again() -> None:
    again = LABS["pooling"].run(QUICK, lambda _: None)
    assert again.answer == found("pooling").answer
    assert again.numbers == found("pooling").numbers


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_number_of_jobs() -> None:
    again = LABS["pooling"].run(Setting(seeds=2, quick=True, jobs=2), lambda _: None)
    assert again.numbers == found("pooling").numbers


def test_ablations_cost_exactly_the_same() -> None:
    variants = found("alexnet").numbers["variants"]
    assert len({(variant["num_params"], variant["macs"]) for variant in variants}) == 1
    plain, residual, deep_plain, deep_residual = found("residual").numbers["variants"]
    for one, other, convolutions in ((plain, residual, 4), (deep_plain, deep_residual, 24)):
        assert one["macs"] == other["macs"]
        assert one["num_params"] - other["num_params"] == 8 * convolutions  # biases of 8 channels each


@pytest.mark.parametrize(
    ("name", "compared"),
    [
        ("stride", ("max-pooling", "strided, as many MACs")),
        ("inception", ("inception", "3x3 convolutions", "5x5 convolutions")),
        ("squeeze-excitation", ("plain", "squeeze-and-excitation")),
        ("separable", ("plain", "separable, as many MACs")),
    ],
)
def test_equal_cost_means_about_the_same_macs(name: str, compared: tuple[str, ...]) -> None:
    macs = [each["macs"] for each in found(name).numbers["variants"] if each["name"] in compared]
    assert len(macs) == len(compared)
    assert max(macs) / min(macs) < 1.12


def test_a_stack_is_widened_to_the_macs_of_another() -> None:
    def dense(width: int) -> str:
        return f"linear {width}; linear 10"  # 784 w + 10 w operations

    assert match_macs(dense, dense(37)) == dense(37)
    assert match_macs(dense, "conv 3 1x1; linear 10") == dense(round((3 * 784 + 3 * 784 * 10) / 794))
    assert stack_macs(dense(5)) == 794 * 5


def test_networks_of_the_shift_experiment_have_equally_many_parameters() -> None:
    counts = [each["num_params"] for each in found("translation").numbers["variants"]]
    assert max(counts) / min(counts) < 1.1


# ---------------------------------------------------------------- measurements


def test_every_image_is_judged_at_one_shift_and_every_shift_on_as_many() -> None:
    correct = np.zeros((1, 9, 27), bool)
    for shift in range(9):
        correct[0, shift] = np.arange(27) % 9 == shift
    assert one_shift_each(correct).all()
    assert one_shift_each(~correct).sum() == 0


def test_the_mean_over_batches_is_that_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(make_variant("x", "conv 4 5x5 /2; relu; linear 10", per_class=3).config, lambda _: None)
    whole = translation.measure(prepared)
    monkeypatch.setattr(translation, "BATCH", 7)
    for name, values in translation.measure(prepared).items():
        assert values == pytest.approx(whole[name], abs=1e-6)


def test_a_shift_moves_pixels_and_fills_up_with_zeros() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4)
    moved = shift_right(x, 2, axis=3)
    assert torch.equal(moved[..., 2:], x[..., :2])
    assert not moved[..., :2].any()
    assert torch.equal(shift_right(x, 0, axis=3), x)


def test_feature_maps_move_with_the_image_by_their_stride() -> None:
    """A shift by the whole stride of 4 pixels gives the shifted feature maps."""
    moved = {
        name: values for name, values in found("translation").numbers["equivariance"].items() if name != "no pooling"
    }
    for name in ("max-pooling", "strided convolution"):
        assert moved[name][4] > 0.9999
        assert moved[name][4] > moved[name][2]
    assert min(found("translation").numbers["equivariance"]["no pooling"]) > 0.99


def test_gradients_are_those_of_a_backward_pass() -> None:
    variant = make_variant("x", "conv 4 3x3; sigmoid; linear 10", per_class=4)
    prepared = prepare(variant.config, lambda _: None)
    sizes = gradient_sizes(prepared)
    images = prepared.images.images[prepared.splits.train]
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = (x - prepared.preprocessing.mean[0]) / prepared.preprocessing.std[0]
    loss = torch.nn.CrossEntropyLoss()(
        prepared.network(x), torch.from_numpy(prepared.images.labels[prepared.splits.train])
    )
    loss.backward()
    by_hand = [p.grad.pow(2).mean().sqrt().item() for p in prepared.network.parameters() if p.ndim > 1]
    assert sizes == pytest.approx(by_hand, rel=1e-4)


def test_gradients_vanish_through_sigmoids() -> None:
    ratios = found("activation").numbers["ratio_before"]
    assert min(ratios["sigmoid"]) > 100 * max(ratios["ReLU"])


def test_changed_images_are_what_their_names_say() -> None:
    images = np.zeros((64, 28, 28, 1), np.uint8)
    images[:, 10:18, 12:16] = 200
    for moved in distributions.shifted(images):
        rows, columns = np.nonzero(moved[..., 0])
        step = (rows.min() - 10, columns.min() - 12)
        assert set(map(abs, step)) in ({3}, {0, 3})
        assert moved.sum() == images[0].sum()
    assert np.array_equal(distributions.inverted(images), 255 - images)
    noise = distributions.noisy(np.full((8, 28, 28, 1), 128, np.uint8)).astype(float) - 128
    assert abs(noise.mean()) < 3
    assert (abs(noise) < 255 * distributions.NOISE).mean() == pytest.approx(0.683, abs=0.02)
    turned = distributions.rotated(images)
    assert not np.array_equal(turned, images)
    assert turned.sum() == pytest.approx(images.sum(), rel=0.02)


def test_mixing_does_not_change_test_images() -> None:
    images = load_images(DataConfig(source="mnist5k", per_class=10))
    changed = distributions.mixed(images)
    same = (changed.images == images.images).all(axis=(1, 2, 3))
    is_test = np.array(images.source_splits) == "test"
    assert same[is_test].all()
    assert same[~is_test].mean() == pytest.approx(0.2, abs=0.01)


def test_digits_on_the_canvas_are_at_the_returned_places() -> None:
    images = np.random.default_rng(0).integers(1, 255, (30, 28, 28, 1), dtype=np.uint8)
    canvas, places, labels = dense_to_conv.compose(images, np.arange(30))
    for (top, left), label in zip(places, labels, strict=True):
        assert np.array_equal(canvas[top : top + 28, left : left + 28], images[label])
    assert len(set(labels.tolist())) == len(labels) == dense_to_conv.ROWS * dense_to_conv.COLUMNS


def test_a_converted_network_gives_the_same_outputs() -> None:
    numbers = found("dense-to-conv").numbers
    assert numbers["largest_difference"] < 1e-4
    assert numbers["largest_difference_windows"] < 1e-4
    assert numbers["accuracy_on_canvas"] == numbers["accuracy_cut_out"]


def test_memory_of_the_exercise() -> None:
    numbers = found("memory").numbers
    assert numbers["num_params"] == 2_800 + 180_200 + 720_400
    assert numbers["feature_maps_bytes"] == 4 * 50 * (100 * 100 * 150 + 200 * 50 * 75 + 400 * 25 * 38)
    assert numbers["input_bytes"] == 4 * 50 * 3 * 200 * 300
    answer = found("memory").answer
    assert "all 4 published figures are wrong" in answer
    assert "14.41 MB comes near 14.1 by accident" in answer
    ratio = numbers["predicted_peak_bytes"]["1"] / numbers["measured_peak_bytes"]["1"]
    assert ratio == pytest.approx(1, abs=0.1)


def test_published_figures_are_what_they_are_said_to_count() -> None:
    image = 4 * 3 * 200 * 300 / 1e6
    by_hand = [4 * 3.4237 + image, 4 * 3.4237 + 50 * image, 4 * 903_400 / 2**20, 50 * round(4 * 903_400 / 2**20, 2)]
    assert [claim.published for claim in memory.CLAIMS] == pytest.approx(by_hand, abs=0.006)


def test_padding_gives_the_sizes_of_the_textbook() -> None:
    (table,) = [panel for panel in found("padding").panels if panel.title.startswith("Size")]
    assert isinstance(table, Table)
    by_layer = {row[0]: row[1:] for row in table.rows}
    assert by_layer["conv1"] == ("8 × 24 × 24", "8 × 28 × 28", "8 × 32 × 32")
    assert by_layer["max_pool2"] == ("16 × 4 × 4", "16 × 7 × 7", "16 × 10 × 10")


def test_parameters_are_those_of_the_write_up() -> None:
    layers = found("parameters").numbers["layers"]
    assert sum(layer["num_params"] for layer in layers["mlp"]) == 101_770
    assert sum(layer["num_params"] for layer in layers["cnn-small"]) == 8_490


# ---------------------------------------------------------------- sentences


COSTS = ("num_params", "train_seconds", "peak_memory_bytes")


def group(name: str, correct: np.ndarray) -> Group:
    """Return runs with these correct predictions, bool [K, N]."""
    runs = [
        FinishedRun(
            folder="",
            config=RunConfig(data=DataConfig(source="x"), train=TrainConfig(seed=seed)),
            results={"data": "x", "split": "test", "macs": 1} | dict.fromkeys(COSTS, 1),
            images=tuple(map(str, range(len(of_seed)))),
            true=("a",) * len(of_seed),
            predicted=tuple("a" if each else "b" for each in of_seed),
            correct=of_seed,
        )
        for seed, of_seed in enumerate(correct)
    ]
    return Group(name, tuple(runs))


def test_the_sentence_names_better_worse_and_undecided_variants() -> None:
    rng = np.random.default_rng(0)
    corrects = {name: rng.random((6, 1000)) < share for name, share in (("a", 0.8), ("b", 0.8), ("c", 0.9), ("d", 0.6))}
    comparison = compare_groups(
        [group(name, correct) for name, correct in corrects.items()], pairs=[("a", "b"), ("a", "c"), ("a", "d")]
    )
    text = sentence(conclude(comparison, "{} pooling"))
    assert text.startswith("On 1,000 test images, 6 seeds each: c pooling (+")
    assert ") is better than a pooling; d pooling (-" in text
    assert ") is worse than a pooling; cannot tell whether b pooling (" in text
    assert text.endswith(") is better or worse than a pooling.")
    difference = 100 * (corrects["c"].mean() - corrects["a"].mean())
    assert f"c pooling ({difference:+.1f} points, " in text


def test_the_sentence_does_not_decide_what_is_close() -> None:
    correct = np.arange(2000) % 10 < 8
    rng, found_close = np.random.default_rng(0), False
    for share in np.linspace(0.005, 0.05, 12):
        runs = [np.stack([correct ^ (rng.random(2000) < part) for _ in range(4)]) for part in (0.05, 0.05 + share)]
        comparison = compare_groups([group("a", runs[0]), group("b", runs[1])])
        if 0.02 < comparison.pairs[0].p_adjusted < 0.15:
            found_close = True
            assert f": {CLOSE} whether b (" in conclude(comparison)
    assert found_close


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.91, 0.95, 0.93, 0.96, 0.90]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = mean_interval(values)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert mean == pytest.approx(np.mean(values))
    bootstrapped = bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    assert low < bootstrapped.low < bootstrapped.high < high  # few seeds: wider than the bootstrap, which errs there


def test_a_line_of_seeds_has_their_range() -> None:
    (line,) = seed_curves("", "", "", (1, 2), {"x": [[1, 5], [3, 4]]}).lines
    assert (line.y, line.low, line.high) == ((2, 4.5), (1, 4), (3, 5))


def test_one_seed_has_no_spread() -> None:
    with pytest.raises(UsageError, match="seeds 1 is too small to see a spread"):
        Setting(seeds=1)


def test_trials_are_trained_as_runs_are_and_tested_on_more_images(tmp_path: Path) -> None:
    import convscope

    variant = make_variant("x", "conv 4 3x3 /2; relu; linear 10")
    ((_, trial),) = run_trials([variant], QUICK, lambda _: None).values()
    result = convscope.run_config(trial.run.config, out=tmp_path / "run", report=False)
    assert trial.run.config.train.seed == 1
    predicted = dict(zip(trial.run.images, trial.run.predicted, strict=True))
    rows = read_csv(tmp_path / "run" / "predictions.csv")
    assert [predicted[row["image"]] for row in rows] == [row["predicted"] for row in rows]
    assert len(predicted) == 7 * len(rows)
    trained_on = {row["image"] for row in read_csv(tmp_path / "run" / "split.csv") if row["split"] != "test"}
    assert not trained_on & set(predicted)
    assert trial.run.results["num_params"] == result.num_params


def test_an_experiment_tests_the_4000_digits_that_it_does_not_train_on() -> None:
    images = load_digits(make_variant("x", "linear 10").config.data)
    splits = make_splits(images, DataConfig(source="mnist5k"))
    assert [len(chosen) for _, chosen in splits.items()] == [900, 100, 4000]
    assert len(splits.leaked("test")) == 0


def test_every_variant_has_its_settings_in_the_table() -> None:
    (table,) = [panel for panel in found("normalize").panels if panel.title == "What was trained"]
    assert isinstance(table, Table)
    assert [(row[0], row[2].split(", ")[1:3], row[3]) for row in table.rows] == [
        (f"{pixels}, {name}", [name.lower(), f"learning rate up to {lr:g}"], pixels)
        for name, lr in (("SGD", 0.02), ("Adam", 0.003))
        for pixels in ("pixels 0..1", "normalized")
    ]
    assert "sgd, learning rate up to 0.02" in found("normalize").method
    assert "adam, learning rate up to 0.003" in found("normalize").method
    mixed = next(panel for panel in found("distributions").panels if panel.title == "What was trained")
    assert isinstance(mixed, Table)
    assert "four of five changed" in mixed.rows[2][3]


@pytest.mark.parametrize("name", LABS)
def test_no_verdict_contradicts_its_interval(name: str) -> None:
    for pair in found(name).numbers.get("pairs", ()):
        better = pair["b"] if pair["low"] > 0 else pair["a"] if pair["high"] < 0 else CANNOT_TELL
        assert pair["verdict"] == better
        assert -1 <= pair["low"] <= pair["difference"] <= pair["high"] <= 1
        close = 0.02 < pair["p_adjusted"] < 0.15
        expected = CLOSE if close else CANNOT_TELL if better == CANNOT_TELL else None
        assert pair["outcome"] == (expected or ("better" if better == pair["b"] else "worse"))


def test_percentages_stay_within_what_is_possible() -> None:
    panel = seed_intervals("", "accuracy, %", {"high": [100, 99, 98], "low": [0, 0.1, 2]})
    assert (panel.high[0], panel.low[1]) == (100, 0)
    chart = draw_intervals(panel)
    assert (chart.x_range.start, chart.x_range.end) == (0, 100)
    curves = draw_curves(seed_curves("", "epoch", "accuracy, %", (1, 2), {"x": [[100, 100], [99, 0]]}))
    assert (curves.y_range.start, curves.y_range.end) == (0, 100)


# ---------------------------------------------------------------- as a page of the documentation


def test_docs_lab_md_is_written_from_the_recorded_experiments() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "lab_docs"))
    assert (ROOT / "docs" / "lab.md").read_text() == script["render_page"]()
    for path in (ROOT / "docs" / "lab").glob("*.json"):
        name, recorded = path.stem, json.loads(path.read_text())
        experiment = LABS[name]
        assert recorded["question"] == experiment.question
        assert (recorded["seeds"], recorded["quick"]) == (experiment.seeds, False)
        assert (ROOT / "docs" / "lab" / f"{name}.png").stat().st_size < 40_000


# ---------------------------------------------------------------- as a command


def test_the_command_writes_a_page_and_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(build_app(), ["lab", "pooling", "--quick", "--jobs", "1", "--json"])
    assert done.exit_code == 0, done.output
    tree = json.loads(done.stdout)
    assert tree["answer"] == found("pooling").answer
    assert tree["numbers"] == json.loads(json.dumps(found("pooling").numbers))
    assert json.loads(Path("runs/lab-pooling/lab.json").read_text()) == tree
    page = Path("runs/lab-pooling/lab.html").read_text()
    assert "too small to believe" in page
    assert tree["question"] in page


def test_the_command_lists_the_experiments_and_suggests_a_near_name() -> None:
    listed = CliRunner().invoke(build_app(), ["lab", "--list"])
    assert all(name in listed.stdout for name in LABS)
    with pytest.raises(UsageError, match=r"unknown experiment 'poling'.*Did you mean 'pooling'"):
        CliRunner().invoke(build_app(), ["lab", "poling"], catch_exceptions=False)
