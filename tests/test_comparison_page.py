"""The page of a comparison: its numbers, its images, and escaped names."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convscope.comparison.compare import compare_runs
from convscope.pages.comparison import build_comparison_page, pareto_front, shown_images
from convscope.pages.text import name_text, printable
from convscope.results.comparison import Comparison
from convscope.results.run import EpochRecord
from convscope.storage.files import read_csv, read_json, write_csv
from convscope.storage.run_folder import write_history
from tests.support import HOSTILE, Page, draw, hover_values, open_page, write_run


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three networks of two seeds: one weak and two strong ones; images and classes have hostile names."""
    folder = tmp_path_factory.mktemp("comparison")
    runs = []
    for number, (stack, share) in enumerate(((HOSTILE[0], 0.7), (HOSTILE[3], 0.9), ("z" * 90, 0.9))):
        for seed in range(2):
            run = folder / f"{number}-{seed}"
            write_run(
                run, draw(share, 10 * number + seed), seed=seed, model="stack", stack=stack, macs=10 ** (5 + number)
            )
            rows = [
                dict(row, image=f"{HOSTILE[i % 10]}{i}", true=HOSTILE[1]) | _said(row)
                for i, row in enumerate(read_csv(run / "predictions.csv"))
            ]
            write_csv(run / "predictions.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
            write_history(run, [_epoch(e, number, seed) for e in range(1, 4 + seed)])
            runs.append(run)
    return compare_runs(runs)


def _said(row: dict[str, str]) -> dict[str, str]:
    return {"predicted": HOSTILE[1] if row["true"] == row["predicted"] else HOSTILE[4]}


def _epoch(epoch: int, number: int, seed: int) -> EpochRecord:
    loss = 2.0 / epoch + number + seed
    return EpochRecord(epoch, loss, 0.5, loss + 0.5, 0.6 + number / 10 + seed / 100, 1e-3, epoch * 100, 1.0)


@pytest.fixture(scope="module")
def images(comparison: Comparison) -> dict[str, np.ndarray]:
    return {id_: np.full((28, 28, 1), i % 256, np.uint8) for i, id_ in enumerate(shown_images(comparison))}


@pytest.fixture(scope="module")
def file(comparison: Comparison, images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_comparison_page(comparison, tmp_path_factory.mktemp("page"), images)


def read(file: Path) -> Page:
    page = Page()
    page.feed(file.read_text("utf-8"))
    page.close()
    return page


def test_the_tables_hold_what_was_compared(comparison: Comparison, file: Path) -> None:
    page = read(file)
    assert [row[0] for row in page.table("Verdict")] == [printable(pair.sentence) for pair in comparison.pairs]
    figures = page.table("Networks", "Difference (points)")
    assert [float(row[1]) for row in figures] == pytest.approx([100 * p.difference for p in comparison.pairs], abs=0.01)
    assert [row[3:5] for row in figures] == [[_p(p.p_value), _p(p.p_adjusted)] for p in comparison.pairs]
    accuracy = page.table("Network", "Accuracy", "95 % interval")
    for row, model in zip(accuracy, comparison.models, strict=True):
        assert row[1] == f"{100 * model.accuracy.value:.2f}\u00a0%"
        assert float(row[3]) == pytest.approx(100 * np.std(model.accuracies, ddof=1), abs=0.01)
    for run in page.table("Folder", "Network", "Seed"):
        (folder,) = [Path(path) for m in comparison.models for path in m.runs if Path(path).name == run[0]]
        assert run[3] == f"{100 * read_json(folder / 'results.json')['accuracy']['value']:.2f}\u00a0%"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def test_curves_are_means_over_the_epochs_that_all_seeds_reached(file: Path) -> None:
    tables = [table for table in read(file).tables if table[0][0] == "epoch"]
    loss, accuracy, _ = tables
    assert [row[0] for row in loss[1:]] == ["1", "2", "3"]
    expected = [2.0 / e + number + 1.0 for e in (1, 2, 3) for number in range(3)]
    assert [float(cell) for row in loss[1:] for cell in row[1:]] == pytest.approx(expected, abs=1e-4)
    assert [float(cell) for cell in accuracy[1][1:]] == pytest.approx([60.5, 70.5, 80.5])


def test_each_image_has_its_predictions_in_its_caption(
    comparison: Comparison, images: dict[str, np.ndarray], file: Path
) -> None:
    page = read(file)
    sources = [str(image["src"]).partition(",")[2] for image in page.of("img")]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))[0, 0] for source in sources]
    expected, captions = [], []
    for pair in comparison.pairs:
        for sign in (1, -1):
            side = [e for e in pair.disagreements if (e.correct_a - e.correct_b) * sign > 0][:5]
            expected += [images[entry.image][0, 0, 0] for entry in side]
            captions += [
                [
                    f"actual {name_text(entry.true)}",
                    f"{name_text(pair.a)}: {name_text(entry.predicted_a)} ({round(2 * entry.correct_a)} of 2 correct)",
                    f"{name_text(pair.b)}: {name_text(entry.predicted_b)} ({round(2 * entry.correct_b)} of 2 correct)",
                ]
                for entry in side
            ]
    assert shown == expected
    assert [[line for line in caption.split("\n") if line] for caption in page.captions] == captions


def test_without_images_tables_list_their_names(comparison: Comparison, tmp_path: Path) -> None:
    reason = "the images cannot be read: gone"
    file = build_comparison_page(comparison, tmp_path, reason)
    page = read(file)
    assert reason in file.read_text("utf-8")
    assert not page.of("img")
    side = [e for e in comparison.pairs[0].disagreements if e.correct_a > e.correct_b]
    assert page.table("Image", "Actual")[0][0] == printable(side[0].image)


def test_names_are_escaped(file: Path) -> None:
    page, html = read(file), file.read_text("utf-8")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert len(page.scripts) == 2
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert all(image.get("alt") for image in page.of("img"))


def test_networks_that_agree_have_nothing_to_show(comparison: Comparison, tmp_path: Path) -> None:
    agreeing = replace(comparison, pairs=tuple(replace(pair, disagreements=()) for pair in comparison.pairs))
    assert shown_images(agreeing) == []
    html = build_comparison_page(agreeing, tmp_path, {}).read_text("utf-8")
    assert "all networks are correct on the same images" in html


def test_the_pareto_front_has_the_points_that_no_other_dominates() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.9), (3.0, 0.9), (0.5, 0.5), (4.0, 0.95)]
    assert pareto_front(points) == [False, False, True, False, True, True]
    assert pareto_front([(1.0, 0.5), (1.0, 0.5)]) == [True, True]


def _hover_points(page: Any, place: str) -> set[str]:  # noqa: ANN401
    """Return the tooltips of a chart's points; Bokeh knows where it drew them."""
    page.locator(place).scroll_into_view_if_needed()
    said: set[str] = set()
    for x, y in page.evaluate(POINTS, page.locator(f"{place} >> [data-root-id]").get_attribute("data-root-id")):
        page.mouse.move(x, y)
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        said.update(text.strip() for text in page.locator(".bk-tooltip-row-value").all_inner_texts())
    return said


POINTS = """id => {
  const view = Bokeh.index[id], box = view.el.getBoundingClientRect(), frame = view.frame;
  const marks = view.model.renderers.filter(r => r.glyph.type === 'Scatter');
  return marks.map(r => [
    box.x + frame.x_scale.compute(r.data_source.data.x[0]),
    box.y + frame.y_scale.compute(r.data_source.data.y[0]),
  ]);
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_browser_draws_the_page(browser: Any, file: Path, comparison: Comparison, width: int) -> None:  # noqa: ANN401
    opened = open_page(browser, file, width)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("canvas").count() >= 7
    assert page.evaluate("Array.from(document.images).every(i => i.alt && i.complete && i.naturalWidth > 0)")
    said = hover_values(page, ".curves .chart >> nth=4", start=(0.1, 0.6), end=(0.97, 0.6))
    said |= _hover_points(page, ".curves .chart >> nth=0")
    losses = {f"{name_text(model.model)}: {3 + number:.4f}" for number, model in enumerate(comparison.models)}
    accuracies = {f"accuracy (%): {100 * model.accuracy.value:.2f}" for model in comparison.models}
    assert losses <= said
    assert all(any(text.startswith(accuracy) for text in said) for accuracy in accuracies)
    assert page.locator("main script, .bk-tooltip-content img, .bk-tooltip-content script").count() == 0
    assert (opened.problems, opened.requests) == ([], [])
    page.close()
