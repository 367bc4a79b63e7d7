"""A figure names the data it was measured on, and images that training has seen do not count as unseen."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.dummy import DummyClassifier

import convscope
from convscope.api.compare import _with_baseline
from convscope.comparison.compare import compare_runs, comparison_to_json
from convscope.config import DataConfig, ModelConfig, RunConfig
from convscope.data.dataset import pixel_digests
from convscope.data.duplicates import find_known
from convscope.evaluation.metrics import baseline_of, make_predictions
from convscope.evaluation.records import shown_order
from convscope.pages.heatmaps import encode_heat
from convscope.results.run import accuracy_of, guessing_text
from convscope.run.configure import command_of, make_config
from convscope.run.other_data import evaluation_folder
from convscope.storage.files import read_csv, read_json, write_json
from convscope.storage.panels import read_panels
from convscope.storage.run_folder import read_thumbnails
from tests.support import Page, draw, encoded, make_image_set, run_convscope, smooth, write_folder, write_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 72 smooth photos, all different; class "a" is the largest."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for seed in range(72):
        name = "aaabbc"[seed % 6]
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{seed:02}.png").write_bytes(encoded(smooth(40, 40, seed), "PNG"))
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "photos"
    convscope.train(photos, out=out, epochs=2, image_size=32, threads=1, max_pixels=2000, report=False)
    return out


@pytest.fixture(scope="module")
def without_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    convscope.train("digits", out=out, split=(80, 20, 0), per_class=40, epochs=2, threads=1)
    return out


def digest_splits(run: Path) -> dict[str, str]:
    """Return image -> split."""
    return {row["image"]: row["split"] for row in read_csv(run / "split.csv")}


# ---------------------------------------------------------------- which split


def test_a_page_without_a_test_split_says_validation_everywhere(
    without_test: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    html = (without_test / "report.html").read_text("utf-8")
    convscope.inspect(without_test, out=tmp_path / "inspection.html")
    for text in (html, (tmp_path / "inspection.html").read_text("utf-8")):
        shown = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
        claims = re.findall(r"(?i)[^<>]*\btest\b[^<>]*", shown)
        assert [c for c in claims if "no test split" not in c and c.strip() not in ("Test", "split")] == []
        assert "never saw" not in shown
    assert "Accuracy on the validation split: " in html
    assert "whose images chose the best epoch" in html
    assert read_json(without_test / "results.json")["split"] == "validation"
    assert read_json(without_test / "certificate.json")["split"] == "validation"
    code, out, _ = run_convscope(capsys, "evaluate", without_test)
    assert code == 0
    assert "on the validation split of digits" in out
    assert "the validation images chose the best epoch" in " ".join(out.split())
    code, out, _ = run_convscope(capsys, "runs", without_test.parent)
    assert "test" not in out.replace("pytest", "")
    assert " validation " in out


def test_pages_show_a_shuffle_by_the_seed_and_the_same_image_inside(without_test: Path) -> None:
    page, rows = Page(), read_csv(without_test / "predictions.csv")
    page.feed((without_test / "report.html").read_text("utf-8"))
    order = shown_order(len(rows), 0)
    assert not np.array_equal(order[:20], shown_order(len(rows), 1)[:20])
    first = [rows[i] for i in order]
    wrong = [row for row in first if row["true"] != row["predicted"]]
    actual = [caption.split("actual ")[1].split("\n")[0] for caption in page.captions if "predicted " in caption]
    number = min(20, len(wrong))
    expected = [*first[:20], *wrong[:number], *read_csv(without_test / "mistakes.csv")[:number]]
    assert actual == [row["true"] for row in expected]
    assert {row["image"] for row in expected} <= set(read_thumbnails(without_test))
    panels = read_panels(without_test / "inside.npz")
    assert panels is not None
    assert ("Image", first[0]["image"]) in [row for panel in panels for row in getattr(panel, "rows", ())]


# ---------------------------------------------------------------- guessing


def test_guessing_is_scikit_learns_dummy_classifier() -> None:
    rng = np.random.default_rng(0)
    train, labels = rng.choice(3, 90, p=[0.2, 0.7, 0.1]), rng.choice(3, 40, p=[0.4, 0.4, 0.2])
    logits = rng.normal(size=(40, 3)).astype(np.float32)
    predictions = make_predictions(
        logits=logits, labels=labels, ids=tuple(map(str, range(40))), class_names=("a", "b", "c")
    )
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((90, 1)), train)
    assert baseline_of(predictions, np.bincount(train).tolist()) == ("b", dummy.score(np.zeros((40, 1)), labels))


def test_an_interval_that_holds_the_baseline_is_not_better_than_guessing() -> None:
    assert guessing_text(accuracy_of(correct=50, n=100).low, 0.5, "cat").startswith("not better than guessing (always")
    assert not guessing_text(accuracy_of(correct=70, n=100).low, 0.5, "cat").startswith("not better")


def test_the_baseline_is_recorded_and_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, splits = read_json(run / "results.json"), read_csv(run / "split.csv")
    tested = [row["label"] for row in splits if row["split"] == "test"]
    assert (results["baseline_class"], results["baseline_accuracy"]) == ("a", tested.count("a") / len(tested))
    assert "always naming a" in run_convscope(capsys, "evaluate", run)[1]


def test_an_open_verdict_between_two_guesses_says_so(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, draw(0.5, seed), model=name) for seed, name in enumerate(("mlp", "cnn"))]
    for baseline, words in ((0.6, "not better than guessing (always naming it gives 60.0"), (0.2, "cannot tell")):
        write_json(
            runs[0] / "results.json",
            read_json(runs[0] / "results.json") | {"baseline_class": "it", "baseline_accuracy": baseline},
        )
        comparison = _with_baseline(compare_runs(runs), runs[0])
        assert comparison.pairs[0].verdict == "cannot tell"
        assert words in comparison.pairs[0].sentence
        assert "more test images" not in comparison.pairs[0].sentence or baseline < 0.5
        assert comparison_to_json(comparison)["baseline_accuracy"] == baseline


# ---------------------------------------------------------------- other data


def test_training_images_are_counted_wherever_they_lie(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "elsewhere.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in photos.rglob("*.png"):
            file.write(path, f"wrapped/{path.relative_to(photos)}")
    code, out, err = run_convscope(capsys, "evaluate", run, packed, "--json")
    assert code == 0, err
    found, own = json.loads(out), read_json(run / "results.json")
    splits = list(digest_splits(run).values())
    assert found["accuracy"]["n"] == len(splits)
    assert found["trained_on"] == {"images": len(splits) - splits.count("test"), "accuracy_without": own["accuracy"]}
    (note,) = found["notes"]
    assert note.endswith(f"convscope evaluate {run}")
    assert "without the" in run_convscope(capsys, "evaluate", run, packed)[1]


def test_training_images_saved_again_are_counted(run: Path, photos: Path, tmp_path: Path) -> None:
    splits = digest_splits(run)
    again = [name for name, split in splits.items() if split == "train"][:6]
    for name in again:
        path = (tmp_path / "again" / name).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(photos / name).resize((36, 36)).save(path, quality=85)
    (tmp_path / "again" / "b").mkdir(exist_ok=True)
    (tmp_path / "again" / "b" / "new.png").write_bytes(encoded(smooth(40, 40, 1000), "PNG"))
    other = convscope.evaluate(run, tmp_path / "again").other_data
    assert other is not None
    assert other.trained_on == 6
    assert other.accuracy_without is not None
    assert other.accuracy_without.n == 1


def test_known_images_are_found_by_pixels_and_by_likeness() -> None:
    known = np.stack([smooth(40, 40, seed) for seed in range(8)])
    brighter = np.clip(known[3].astype(int) + 3, 0, 255).astype(np.uint8)
    images = np.stack([smooth(40, 40, 50), known[5], brighter])
    assert find_known(images, pixel_digests(images), known, pixel_digests(known)).tolist() == [False, True, True]


def test_skipped_files_are_listed_and_the_runs_limits_apply(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new"
    for name, pixels in (("a/1.png", smooth(40, 40, 900)), ("b/2.png", smooth(50, 50, 901)), ("z/3.png", smooth())):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(encoded(pixels[:40, :40] if name.startswith("z") else pixels, "PNG"))
    code, out, _ = run_convscope(capsys, "evaluate", run, data, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["accuracy"]["n"], found["split"], found["trained_on"]["images"]) == (1, "all", 0)
    assert found["trained_on"]["accuracy_without"] == found["accuracy"]
    reasons = {item["path"]: item["reason"] for item in found["skipped"]}
    assert set(reasons) == {"b/2.png", "z/3.png"}
    assert "2500" in reasons["b/2.png"].replace(",", "")  # of at most 2,000 pixels, as in training
    assert reasons["z/3.png"] == "the network has no class z"
    listed = read_csv(run / "evaluations" / "new" / "skipped.csv")
    assert {row["file"]: row["reason"] for row in listed} == reasons
    assert "measured on 1 of 3 classes: there is no image of b, c" in found["notes"]
    code, out, err = run_convscope(capsys, "evaluate", run, data, "--max-pixels", "2500")
    assert (code, "1 file(s) skipped" in err, "on all images of new" in out) == (0, True, True)


def test_two_folders_of_one_name_keep_their_evaluations(tmp_path: Path) -> None:
    images = replace(make_image_set(), name="a/twin")
    for source, name in (
        ("/1/twin", "a-twin"),
        ("/2/twin", "a-twin-2"),
        ("/1/twin", "a-twin"),
        ("/3/twin", "a-twin-3"),
    ):
        folder = evaluation_folder(tmp_path, images, source)
        assert folder == tmp_path / "evaluations" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", {"source": source})


def test_images_without_labels_are_sent_to_predict(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(photos / "a", flat)
    image = next(flat.iterdir())
    for data in (flat, image):
        code, _, err = run_convscope(capsys, "evaluate", run, data)
        assert code == 1
        command = " ".join(err.split()).partition("not evaluated: ")[2]
        assert command == f"convscope predict {run} {data}"
        assert run_convscope(capsys, *command.split()[1:])[0] == 0
    code, _, err = run_convscope(capsys, "evaluate", run, write_folder(tmp_path / "others"))
    assert code == 1
    assert "the same classes" in " ".join(err.split())


def test_accents_that_are_written_otherwise_are_the_same_class(tmp_path: Path) -> None:
    """A Mac writes é as two letters in the names of folders."""
    folders = {}
    for form in ("NFC", "NFD"):
        data = write_folder(tmp_path / form)
        (data / "class 0").rename(data / unicodedata.normalize(form, "café"))
        folders[form] = data
    convscope.train(folders["NFC"], model="mlp", epochs=1, out=tmp_path / "run", report=False)
    result = convscope.evaluate(tmp_path / "run", folders["NFD"])
    assert result.accuracy.n == 90


# ---------------------------------------------------------------- moved data


def test_moved_data_are_found_by_their_new_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, moved = write_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "moved here"
    assert run_convscope(capsys, "train", data, "--epochs", "1", "--out", out, "--no-report")[0] == 0
    before = read_json(out / "results.json")
    data.rename(moved)
    for words in (("evaluate", out), ("inspect", out), ("train", "--resume", out)):
        code, _, err = run_convscope(capsys, *words)
        assert code == 1
        advice = f"convscope {' '.join(map(str, words))} --data PATH"
        assert " ".join(err.split()).endswith(f"name where they are now: {advice}")
        code, _, err = run_convscope(capsys, *words, "--data", moved)
        assert code == 0, err
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        for path in moved.rglob("*.png"):
            file.write(path, f"data/{path.relative_to(moved)}")
    assert convscope.evaluate(out, moved_to=tmp_path / "packed.zip").accuracy.correct == before["accuracy"]["correct"]
    (moved / "class 0" / "3.png").unlink()
    for words in (("evaluate", out), ("train", "--resume", out)):
        code, _, err = run_convscope(capsys, *words, "--data", moved)
        assert code == 1
        assert "1 of 90 images differ; missing: class 0/3.png" in " ".join(err.split())


# ---------------------------------------------------------------- smaller things


def test_colours_of_a_heat_map_follow_its_scale() -> None:
    image, small = np.full((30, 30, 1), 128, np.uint8), np.full((3, 3), 0.02, np.float32)
    assert encode_heat(image, small, full_colour=0.5) == encode_heat(image, small / 5, full_colour=0.1)
    assert encode_heat(image, small, full_colour=0.5) != encode_heat(image, small)
    assert encode_heat(image, 100 * small, full_colour=0.5) == encode_heat(image, small)  # full, not beyond


def test_a_fitted_head_has_no_epochs() -> None:
    fitted = make_config("photos", "efficientnet_lite0", pretrained=True)
    assert fitted.only_head
    assert "--epochs" not in command_of(fitted)
    assert "--epochs" in command_of(make_config("photos", "efficientnet_lite0", pretrained=True, unfreeze_at=2))
    assert not RunConfig(data=DataConfig(source="photos"), model=ModelConfig(name="cnn")).only_head


def test_few_images_of_a_class_and_the_limit_on_them_are_noted(without_test: Path) -> None:
    html = (without_test / "report.html").read_text("utf-8")
    assert "fewer than 10: 0 (8), 1 (8)" in html
    assert "per_class 40: at most this many images of each class in all, before they were divided" in html


def test_measured_peaks_never_shrink(without_test: Path) -> None:
    plan = read_json(without_test / "plan.json")
    plan["stages"][0]["measured_bytes"] *= 2  # as of a process before this one
    write_json(without_test / "plan.json", plan)
    convscope.report(without_test)
    page = Page()
    page.feed((without_test / "report.html").read_text("utf-8"))
    rows = page.table("Up to the end of", "Predicted", "Measured")
    assert len({row[2] for row in rows[: len(plan["stages"])]}) == 1
