"""The report shows what was recorded, opens without an internet connection, and escapes every name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convscope.config import DataConfig, ModelConfig, RunConfig, TrainConfig, config_to_json
from convscope.errors import RunError
from convscope.evaluation.calibration import measure_reliability
from convscope.evaluation.metrics import make_predictions
from convscope.evaluation.records import shown_order
from convscope.pages import charts
from convscope.pages.page import build_report
from convscope.pages.section import RecordedRun
from convscope.pages.sections import SECTIONS
from convscope.pages.text import accuracy_text, bytes_text, name_text, printable, seconds_text, shorten
from convscope.results.panels import Curves, FeatureMaps, Heat, ImageGrid, Line, Matrix, Panel, Table
from convscope.results.run import EpochRecord, accuracy_of
from convscope.storage.files import read_csv, write_bytes, write_csv, write_json
from convscope.storage.panels import write_panels
from convscope.storage.run_folder import read_history, read_thumbnails, write_history, write_thumbnails
from convscope.storage.run_start import RUN_SCHEMA
from tests.support import HOSTILE, Page, hover_values, open_page

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Made:
    """A synthetic run folder and its expected content."""

    folder: Path
    class_names: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray


def make_run(
    folder: Path,
    *,
    class_names: tuple[str, ...] = DIGITS,
    epochs: int = 6,
    n_test: int = 200,
    size: int = 28,
    channels: int = 1,
    error_rate: float = 0.15,
    finished: bool = True,
    validation: bool = True,
) -> Made:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    k, n_train = len(class_names), max(40, 2 * len(class_names))
    labels = np.arange(n_train) % k
    true = np.arange(n_test) % k
    predicted = np.where(random.random(n_test) < error_rate, random.integers(0, k, n_test), true)
    images = _digit_like(random, n_train + n_test, size, channels)
    ids = [f"digits/{i}" for i in range(n_train + n_test)]
    placed = [(class_names[c], "train") for c in labels] + [(class_names[c], "test") for c in true]
    write_csv(folder / "split.csv", ("image", "label", "split"), [(i, *p) for i, p in zip(ids, placed, strict=True)])
    write_csv(
        folder / "skipped.csv", ("file", "reason", "remedy"), [(HOSTILE[0] + ".png", "not an image", "save it again")]
    )
    write_thumbnails(folder, dict(zip(ids[1:], images[1:], strict=True)))  # the first one is missing
    write_history(folder, [_epoch(e, epochs, n_train, validation=validation) for e in range(1, epochs + 1)])
    counts = {
        "train": np.bincount(labels, minlength=k).tolist(),
        "validation": [0] * k,
        "test": np.bincount(true, minlength=k).tolist(),
    }
    write_json(folder / "run.json", _facts(class_names, counts, size, channels, ids))
    write_json(folder / "plan.json", _plan(finished=finished))
    if finished:
        write_json(folder / "certificate.json", _certificate(ids[-1]))
        _write_results(folder, class_names, true, predicted, ids[n_train:], random)
        write_json(folder / "calibration.json", _calibration(random))
        write_panels(folder / "inside.npz", _inside(images[n_train], class_names))
    return Made(folder, class_names, true, predicted)


def _plan(*, finished: bool) -> dict[str, Any]:
    mib = 2**20
    return {
        "limit_bytes": 900 * mib,
        "why": "700.0 MiB of 900.0 MiB predicted; each batch of 64 goes through the network in 2 parts of 32",
        "batch_size": 64,
        "micro_batches": 2,
        "checkpoint_activations": False,
        "evaluation_batch_size": None,
        "model_file": True,
        "keeps_freed_memory": True,
        "stages": [
            {"stage": "data", "predicted_bytes": None, "measured_bytes": 600 * mib},
            {"stage": "training", "predicted_bytes": 700 * mib, "measured_bytes": 690 * mib if finished else None},
            {"stage": "report", "predicted_bytes": 650 * mib, "measured_bytes": 690 * mib if finished else None},
        ],
        "peak": {"predicted_bytes": 700 * mib, "measured_bytes": 690 * mib if finished else None},
        "seconds": {"predicted": 8.0 if finished else None, "measured": 10.0 if finished else None},
    }


def _certificate(changed: str) -> dict[str, Any]:
    return {
        "file": "model.onnx",
        "images": 100,
        "from_files": True,
        "largest_difference": 0.0123,
        "changed": [changed],
        "failed": None,
        "agrees": False,
        "unknown": {
            "score": "max-probability",
            "threshold": 0.61,
            "kept": 0.95,
            "n": 500,
            "test_kept": 0.942,
            "test_n": 1000,
        },
    }


def _digit_like(random: np.random.Generator, n: int, size: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    radius, width = random.uniform(0.2, 0.35, (n, 1, 1)), random.uniform(0.002, 0.006, (n, 1, 1))
    ring = np.exp(-((np.hypot(x, y * 0.8) - radius) ** 2) / width)
    return np.repeat((255 * ring).astype(np.uint8)[..., None], channels, axis=3)


def _epoch(epoch: int, epochs: int, n_train: int, *, validation: bool) -> EpochRecord:
    done = epoch / (epochs + 1)
    return EpochRecord(
        epoch=epoch,
        train_loss=2.3 * (1 - done) ** 2 + 0.01,
        train_accuracy=0.1 + 0.85 * done,
        validation_loss=2.3 * (1 - done) ** 2 + 0.08 if validation else None,
        validation_accuracy=0.1 + 0.8 * done if validation else None,
        lr=1e-3,
        examples_seen=epoch * n_train * 31,
        seconds=1.5,
    )


def _facts(
    names: tuple[str, ...], counts: dict[str, list[int]], size: int, channels: int, ids: list[str]
) -> dict[str, Any]:
    config = RunConfig(
        data=DataConfig(source="my photos", split=(70.0, 15.0, 15.0), gray=True),
        model=ModelConfig(name="auto"),
        train=TrainConfig(epochs=6, normalize=False, augment=("flip", "crop"), seed=3),
    )
    return {
        "schema": RUN_SCHEMA,
        "convscope": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "config": config_to_json(config),
        "class_names": list(names),
        "model": {"name": "lenet5", "num_params": 61706, "macs": 416520, "input_shape": [channels, size, size]},
        "preprocessing": {
            "image_size": [size, size], "channels": channels, "mean": [0.13] * channels, "std": [0.3] * channels,
        },
        "data": {
            "name": "digits",
            "fingerprint": "ab" * 32,
            "num_images": len(ids),
            "num_skipped": 1,
            "num_ignored": 2,
            "notes": [f"{HOSTILE[3]} is in two classes"],
            "class_counts": counts,
            "mean": [0.1307] * channels,
            "std": [0.3081] * channels,
            "samples": ids[:20],
        },
        "versions": {"python": "3.11.2", "torch": "2.10.0"},
        "hardware": {
            "device": "cpu", "name": None, "cpu_cores": 2, "threads": 2, "memory_bytes": 8 * 2**30, "platform": "Linux",
        },
        "split_sha256": "cd" * 32,
    }  # fmt: skip


def _write_results(
    folder: Path,
    names: tuple[str, ...],
    true: np.ndarray,
    predicted: np.ndarray,
    ids: list[str],
    random: np.random.Generator,
) -> None:
    k, n = len(names), len(true)
    confusion = np.zeros((k, k), int)
    np.add.at(confusion, (true, predicted), 1)
    p_pred = random.uniform(0.5, 1, n)
    p_true = np.where(true == predicted, p_pred, 1 - p_pred)
    columns = ("image", "true", "predicted", "p_true", "p_pred", "loss")
    rows = [
        (ids[i], names[true[i]], names[predicted[i]], p_true[i], p_pred[i], -np.log(max(p_true[i], 1e-9)))
        for i in range(n)
    ]
    write_csv(folder / "predictions.csv", columns, rows)
    mistakes = sorted((row for row in rows if row[1] != row[2]), key=lambda row: -row[5])
    write_csv(folder / "mistakes.csv", columns, mistakes)
    accuracy = accuracy_of(correct=int((true == predicted).sum()), n=n)
    per_class = []
    for c, name in enumerate(names):
        hits, called, true_n = int(confusion[c, c]), int(confusion[:, c].sum()), int(confusion[c].sum())
        precision, recall = (hits / called if called else None), (hits / true_n if true_n else None)
        f1 = 2 * hits / (called + true_n) if called + true_n else None
        per_class.append({"name": name, "n": true_n, "precision": precision, "recall": recall, "f1": f1})
    write_json(
        folder / "results.json",
        {
            "run": str(folder), "model": "lenet5", "data": "digits", "seed": 3, "split": "test",
            "accuracy": accuracy.__dict__, "loss": 0.4321, "topk_accuracy": {"1": accuracy.value, "5": 0.99},
            "per_class": per_class, "confusion": confusion.tolist(), "num_params": 61706, "macs": 416520, "epochs": 6,
            "best_epoch": 5, "train_seconds": 83.2, "peak_memory_bytes": 3 * 2**29, "fraction_of_peak_flops": None,
            "split_sha256": "cd" * 32,
        },
    )  # fmt: skip


def _calibration(random: np.random.Generator) -> dict[str, Any]:
    k, n = 4, 300
    labels = random.integers(0, k, n)
    logits = random.normal(0, 3, (n, k)).astype(np.float32)
    ids = tuple(map(str, range(n)))
    predictions = make_predictions(logits=logits, labels=labels, ids=ids, class_names=DIGITS[:k])
    measured = asdict(measure_reliability(predictions))
    return {"split": "test", "as_trained": measured, "temperature": 2.5, "fitted_on": n, "scaled": measured}


def _inside(image: np.ndarray, names: tuple[str, ...]) -> tuple[Panel, ...]:
    heat = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    wide = np.full((40, 30, 30), np.nan, np.float32)
    wide[:39] = 1
    return (
        Heat(f"Evidence for {names[0]}", image, (heat,), (f"for {names[0]}",)),
        Table("What the network says", ("What", "Value"), (("Image", HOSTILE[3]), ("Actual class", names[0]))),
        FeatureMaps("The image in 2 layers", (heat[None], wide), ("layer 1", f"layer {HOSTILE[0]}")),
    )


def read_page(made: Made) -> tuple[Page, str]:
    html = build_report(made.folder).read_text("utf-8")
    page = Page()
    page.feed(html)
    page.close()
    return page, html


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("runs") / "hostile", class_names=HOSTILE)


@pytest.fixture(scope="module")
def hostile_page(hostile: Made) -> tuple[Page, str]:
    return read_page(hostile)


# ---------------------------------------------------------------- the numbers


def test_confusion_cells_add_up_to_the_predictions(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, _ = hostile_page
    cells = np.array([[int(c) for c in row[1:]] for row in page.table("actual \\ predicted")])
    expected = [[int(((hostile.true == i) & (hostile.predicted == j)).sum()) for j in range(10)] for i in range(10)]
    assert cells.tolist() == expected
    assert cells.sum() == 200
    pairs = page.table("Actual", "Predicted")
    largest = sorted((c for i, row in enumerate(expected) for j, c in enumerate(row) if i != j), reverse=True)
    assert [int(row[2]) for row in pairs] == [c for c in largest[:10] if c]


def test_chart_of_the_matrix_holds_the_same_counts(hostile: Made) -> None:
    confusion = np.array(json.loads((hostile.folder / "results.json").read_text())["confusion"])
    matrix = Matrix("", "actual", "predicted", hostile.class_names, hostile.class_names, confusion)
    data = charts.draw_matrix(matrix).renderers[0].data_source.data
    assert sum(map(int, data["count"])) == 200
    assert all(confusion[y, x] == int(c) for x, y, c in zip(data["x"], data["y"], data["count"], strict=True))


def test_results_are_shown_with_interval_and_n(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, _ = hostile_page
    figures = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
    correct = int((hostile.true == hostile.predicted).sum())
    interval = accuracy_of(correct=correct, n=200)
    assert figures["Accuracy"].startswith(
        f"{correct / 2:.2f}\u00a0% ({correct} of 200 images; 95\u00a0% interval {100 * interval.low:.2f}"
    )
    assert figures["Loss (mean cross-entropy, nats)"] == "0.4321"
    assert figures["Top-5 accuracy"] == "99.00\u00a0%"
    assert figures["Parameters"] == "61,706"
    assert figures["Time to train"] == "1 min 23 s"
    assert figures["Peak memory"] == "1.5 GiB"
    assert figures["Fraction of peak FLOPS"] == "–"
    for c, row in enumerate(page.table("Class", "Images")):
        hits = int(((hostile.true == c) & (hostile.predicted == c)).sum())
        assert row[3] == f"{100 * hits / (hostile.true == c).sum():.1f}\u00a0%"
        assert row[2] == f"{100 * hits / (hostile.predicted == c).sum():.1f}\u00a0%"


def test_the_page_reports_a_model_file_that_differs(hostile_page: tuple[Page, str], tmp_path: Path) -> None:
    _, html = hostile_page
    assert "1.2e-02, more than the 0.001 that rounding explains" in html
    made = make_run(tmp_path / "run")
    write_json(made.folder / "certificate.json", {"failed": "this network has no ONNX form", "unknown": None})
    assert "There is no model.onnx: this network has no ONNX form." in read_page(made)[1]


def test_class_counts_add_up(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, _ = hostile_page
    *rows, total = [[int(c.replace(",", "")) for c in row[1:]] for row in page.table("Class", "Train")]
    assert np.sum(rows, axis=0).tolist() == total
    assert all(sum(row[:-1]) == row[-1] for row in [*rows, total])
    assert total[-1] == 240


def test_curves_show_every_epoch_and_the_examples_seen(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, _ = hostile_page
    history = read_history(hostile.folder)
    loss, accuracy = [t[1:] for t in page.tables if t[0] == ["epoch", "train", "validation", "examples seen"]]
    assert loss == [
        [str(r.epoch), f"{r.train_loss:.4f}", f"{r.validation_loss:.4f}", f"{r.examples_seen:,}"] for r in history
    ]
    assert [float(row[1]) for row in accuracy] == pytest.approx([100 * r.train_accuracy for r in history], abs=1e-4)


def test_images_are_the_recorded_ones_in_order(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, _ = hostile_page
    thumbnails = read_thumbnails(hostile.folder)
    sources = [str(image["src"]) for image in page.of("img")]
    rows, worst = (read_csv(hostile.folder / name) for name in ("predictions.csv", "mistakes.csv"))
    rows = [rows[i] for i in shown_order(len(rows), 3)]
    predictions = rows[:20]
    mistakes = [row for row in rows if row["true"] != row["predicted"]][:20] + worst[:20]
    samples = [f"digits/{i}" for i in range(1, 20)]  # image 0 has no thumbnail
    ids = samples + [row["image"] for row in predictions + mistakes]
    assert len(sources) == len(ids) + 4 == 83  # the last four are feature maps
    for source, pixels in zip(sources, ids, strict=False):
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        assert (decoded == thumbnails[pixels][..., 0]).all()
    captions = [c.split("\n") for c in page.captions]
    marked = [[line for line in c if "wrong" in line] for c in captions[20:40]]
    assert [bool(mark) for mark in marked] == [row["true"] != row["predicted"] for row in predictions]


def test_mistakes_come_worst_first_with_prediction_actual_loss_probability(
    hostile: Made, hostile_page: tuple[Page, str]
) -> None:
    page, _ = hostile_page
    rows = read_csv(hostile.folder / "mistakes.csv")[:20]
    for caption, row in zip(page.captions[60:80], rows, strict=True):
        expected = (
            f"predicted {name_text(row['predicted'])}", f"actual {name_text(row['true'])}",
            f"loss {float(row['loss']):.2f}", f"probability {100 * float(row['p_pred']):.1f}\u00a0%",
        )  # fmt: skip
        assert [line for line in caption.split("\n") if line] == list(expected)
    losses = [float(m[1]) for m in (re.search(r"loss ([\d.]+)", c) for c in page.captions[60:80]) if m]
    assert losses == sorted(losses, reverse=True)


# ---------------------------------------------------------------- safety and form


def test_hostile_names_stay_text(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, html = hostile_page
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "nav", "ul", "li", "a",
        "main", "section", "div", "ol", "figure", "img", "figcaption", "strong", "span", "table", "thead", "tbody",
        "tr", "th", "td", "details", "summary", "pre", "code", "noscript", "script", "wbr",
    }  # fmt: skip
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "\u202e" not in html
    assert "\x1b" not in html
    shown = [row[0] for row in page.table("Class", "Images")]
    assert shown == [printable(name) for name in HOSTILE]
    assert len(page.scripts) == 2


def test_policy_allows_the_two_scripts_and_nothing_from_outside(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, html = hostile_page
    policy = next(str(m["content"]) for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = {words[0]: words[1:] for words in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == ["'none'"]
    assert rules["img-src"] == ["data:"]
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in page.scripts]
    assert rules["script-src"] == [f"'sha256-{digest}'" for digest in hashes]
    assert not [
        a for tag, a in page.elements for key in ("src", "href") if not str(a.get(key, "#")).startswith(("#", "data:"))
    ]
    assert len(html.encode()) < 4e6


def test_page_is_accessible_in_form(hostile: Made, hostile_page: tuple[Page, str]) -> None:
    page, _ = hostile_page
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert [text for level, text in page.headings if level == 2] == [
        "Data", "Learning curves", "Results", "Confusion matrix", "First predictions", "Mistakes",
        "Inside the network", "Calibration", "The file that predicts", "Memory and time",
        "Configuration",
    ]  # fmt: skip
    assert all(image.get("alt") for image in page.of("img"))
    assert all(header.get("scope") in {"row", "col"} for header in page.of("th"))
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    assert {str(link["href"])[1:] for link in page.of("a")} <= set(identifiers)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_computes_panels_from_a_whole_run_and_says_so_on_an_empty_one(
    name: str, hostile: Made, tmp_path: Path
) -> None:
    whole = SECTIONS[name](RecordedRun(hostile.folder))
    assert whole.panels
    assert not whole.missing
    assert whole.intro.count(". ") == 0  # one sentence
    begun = SECTIONS[name](RecordedRun(make_run(tmp_path / "begun", epochs=0, finished=False).folder))
    assert bool(begun.panels) != bool(begun.missing)
    assert "\n" not in begun.missing


def test_augmentation_is_shown_with_captions_and_alternative_text(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    images = tuple(np.full((28, 28, 1), shade, np.uint8) for shade in (10, 20))
    captions = ("<b>7</b>\nas it is", "60% <b>7</b>, 40% 1\nepoch 1")
    write_panels(made.folder / "augmentation.npz", (ImageGrid("Augmentation (flip): the same", images, captions),))
    page, _ = read_page(made)
    assert (3, "Augmentation (flip): the same") in page.headings
    shown = [caption.split() for caption in page.captions]
    assert ["60%", "<b>7</b>,", "40%", "1", "epoch", "1"] in shown
    assert "Image 2 of 2: 60% <b>7</b>, 40% 1, epoch 1" in {image["alt"] for image in page.of("img")}
    assert not page.of("b")


def test_unfinished_run_leaves_sections_out_with_one_line(tmp_path: Path) -> None:
    page, html = read_page(make_run(tmp_path / "run", epochs=1, finished=False, validation=False))
    assert html.count("Left out: the run has not been evaluated") == 7
    assert [t[0] for t in page.tables].count(["epoch", "train", "examples seen"]) == 2


def test_the_plan_is_shown_beside_the_measurements(tmp_path: Path) -> None:
    page, _ = read_page(make_run(tmp_path / "run"))
    rows = page.table("Up to the end of", "Predicted", "Measured", "Difference")
    assert rows == [
        ["data", "–", "600.0 MiB", "–"],
        ["training", "700.0 MiB", "690.0 MiB", "1.4\u00a0%"],
        ["report", "700.0 MiB", "690.0 MiB", "1.4\u00a0%"],  # the peak so far, not that of the stage
        ["whole run", "700.0 MiB", "690.0 MiB", "1.4\u00a0%"],
        ["time to train", "8.0 s", "10.0 s", "-20.0\u00a0%"],
    ]


def test_run_with_nothing_measured_shows_dashes(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", channels=3)
    results = json.loads((made.folder / "results.json").read_text())
    for key in set(results) - {"run", "model", "data", "split"}:
        results[key] = None
    write_json(made.folder / "results.json", results)
    page, _ = read_page(made)
    assert {row[1] for row in page.table("What", "Value") if row[0] == "Accuracy"} <= {"–"}
    assert len(page.table("Channel", "Mean")) == 3


def test_perfect_run_says_that_there_is_no_mistake(tmp_path: Path) -> None:
    _, html = read_page(make_run(tmp_path / "run", error_rate=0))
    assert "made no mistake on the test split" in html
    assert "Most frequent confusions" not in html


def test_hundred_classes_stay_small(tmp_path: Path) -> None:
    names = tuple(f"class with a rather long name {i} " + "y" * 200 for i in range(100))
    page, html = read_page(make_run(tmp_path / "run", class_names=names, n_test=3000, error_rate=0.9))
    assert len(html.encode()) < 4e6
    assert len(page.table("Class", "Images")) == 100
    assert "100 rows: scroll in the table to see them all" in html


def test_a_report_of_colour_images_is_built_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", n_test=10_000, size=32, channels=3)
    code = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from convscope.pages.page import build_report; build_report(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, made.folder], check=True)
    assert (made.folder / "report.html").stat().st_size < 4_000_000


def test_broken_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json does not exist"):
        build_report(tmp_path)
    made = make_run(tmp_path / "run")
    write_json(made.folder / "run.json", {"schema": RUN_SCHEMA, "convscope": "9"})
    with pytest.raises(RunError, match=r"run\.json has no 'data'"):
        build_report(made.folder)
    write_bytes(made.folder / "results.json", b"{")
    with pytest.raises(RunError, match=r"results\.json"):
        build_report(made.folder)


# ---------------------------------------------------------------- details


def test_text_of_numbers_and_names() -> None:
    assert accuracy_text(None) == "–"
    assert [bytes_text(v) for v in (None, 5, 2048, 3 * 2**20)] == ["–", "5 bytes", "2.0 KiB", "3.0 MiB"]
    assert [seconds_text(v) for v in (None, 1.25, 59.94, 119.7, 7260)] == [
        "–",
        "1.2 s",
        "59.9 s",
        "2 min 0 s",
        "2 h 1 min",
    ]
    assert printable("👩\u200d🔬 café") == "👩\u200d🔬 café"
    assert printable("\udcff\u2066\x00") == "\\udcff\\u2066\\u0000"
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abc", 3) == "abc"


def test_photos_are_made_smaller_and_keep_their_proportions() -> None:
    source = charts.encode_image(np.zeros((200, 400, 3), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (160, 80)


@pytest.mark.parametrize("width", [1280, 390])
def test_browser_draws_the_page_without_network_errors_or_overflow(
    browser: Any,  # noqa: ANN401
    hostile: Made,
    hostile_page: tuple[Page, str],
    width: int,
) -> None:
    opened = open_page(browser, hostile.folder / "report.html", width)
    page = opened.page
    assert page.locator("canvas").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Array.from(document.images).every(i => i.alt && i.complete && i.naturalWidth > 0)")

    rows = hover_values(page, ".matrix .chart", start=(0.6, 0.01), end=(0.6, 0.75))
    assert {f"actual: {name_text(name)}" for name in HOSTILE} <= rows
    epochs = hover_values(page, ".curves .chart >> nth=0", start=(0.1, 0.5), end=(0.97, 0.5))
    assert {f"examples seen: {e * 40 * 31:,}" for e in range(1, 7)} <= epochs
    assert page.locator("main script, .bk-tooltip-content img, .bk-tooltip-content script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == "lenet5 on digits – convscope report"
    assert (opened.problems, opened.requests) == ([], [])
    page.close()


@pytest.mark.parametrize("k", [2, 100])
def test_browser_draws_few_and_many_classes(browser: Any, tmp_path: Path, k: int) -> None:  # noqa: ANN401
    made = make_run(tmp_path / "run", class_names=tuple(f"kind {i}" for i in range(k)), n_test=600, epochs=1)
    opened = open_page(browser, build_report(made.folder), 390)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.problems == []
    opened.page.close()


def test_lines_with_gaps_and_tex_in_their_names_can_be_drawn() -> None:
    chart = charts.draw_curves(Curves("t", "$$x$$", "y", (Line("$$y$$", (1.0, 2.0), (None, 3.0)),)))
    assert type(chart.xaxis.axis_label).__name__ == "PlainText"
    assert np.isnan(chart.renderers[0].data_source.data["y"][0])
