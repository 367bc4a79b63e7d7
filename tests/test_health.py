"""The health check: every file is accounted for, oddities are found, and the page shows them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from convscope.api.check import check
from convscope.config import DataConfig
from convscope.data.health import Health, image_stats
from convscope.data.load import load_images
from convscope.errors import DataError, UsageError
from convscope.pages.health import HEALTH_SECTIONS, health_to_json
from tests.support import HOSTILE, Page, encoded, make_tree, make_zip, run_convscope, smooth

SIDE = 64
EQUAL, NEAR, CONFLICT, LEAK = "equal.png", "near.jpg", "other.png", "seen.png"


def files() -> dict[str, bytes]:
    """Return a data set with splits of which everything is known."""
    made = {f"train/{kind}/{i}.png": encoded(photo(SIDE, 100 * (kind == "dog") + i), "PNG")
            for kind in ("cat", "dog") for i in range(8)}  # fmt: skip
    made |= {f"test/{kind}/{i}.png": encoded(photo(80, 300 + 100 * (kind == "dog") + i), "PNG")
             for kind in ("cat", "dog") for i in range(4)}  # fmt: skip
    first = Image.open(io.BytesIO(made["train/cat/0.png"]))
    return made | {
        f"train/cat/{EQUAL}": encoded(first, "PNG", compress_level=1),
        f"train/cat/{NEAR}": encoded(Image.open(io.BytesIO(made["train/cat/1.png"])), "JPEG", quality=50),
        f"train/dog/{CONFLICT}": made["train/cat/2.png"],
        f"test/dog/{LEAK}": made["train/dog/3.png"],
        "train/dog/night.png": encoded(np.full((SIDE, SIDE, 3), 3, np.uint8), "PNG"),
        "train/dog/snow.png": encoded(np.full((SIDE, SIDE), 250, np.uint8), "PNG"),
        "train/cat/blurred.png": encoded(smooth(SIDE, SIDE, 999), "PNG"),
        "train/cat/empty.jpg": b"",
        "train/dog/<b>note</b>.jpg": b"dear diary",
        "train/Thumbs.db": b"x",
        "stray.png": encoded(smooth(), "PNG"),
    }


def photo(width: int, seed: int) -> np.ndarray:
    """Return a smooth image with fine detail on it."""
    detail = np.random.default_rng(seed).integers(-20, 21, (SIDE, width, 3))
    return np.clip(smooth(SIDE, width, seed) + detail, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["folder", "zip", "csv"])
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Health, Path, Path]:
    folder = tmp_path_factory.mktemp("health")
    data, out = folder / "pets", folder / "out"
    if request.param == "zip":
        data = folder / "pets.zip"
        data.write_bytes(make_zip(list(files().items())))
    else:
        make_tree(data, files())
    if request.param == "csv":
        (data / "train/Thumbs.db").unlink()
        rows = [f"{name},{name.split('/')[1] if '/' in name else ''},{name.split('/')[0]}" for name in files()]
        data = data / "pets.csv"
        data.write_text(
            "\n".join(["path,label,split", *(row for row in rows if "db" not in row and "stray" not in row)])
        )
        with data.open("a") as file:
            file.write("\nstray.png,,")
    return check(data, out=out), data, out


def test_every_file_is_accounted_for_as_in_training(checked: tuple[Health, Path, Path]) -> None:
    health, data, _ = checked
    images = load_images(DataConfig(source=str(data), image_size=16))
    assert health.found == len(files()) - 1 == len(health.images) + len(health.skipped)
    assert [each.id for each in health.images] == list(images.ids)
    assert [each.split for each in health.images] == list(images.source_splits)
    assert [each.label for each in health.images] == [images.class_names[label] for label in images.labels]
    assert set(health.skipped) == set(images.skipped)
    assert (health.ignored, health.problem) == (images.ignored, "")


def test_oddities_are_found(checked: tuple[Health, Path, Path]) -> None:
    tree = json.loads((checked[2] / "health.json").read_text())
    assert tree == json.loads(json.dumps(health_to_json(checked[0])))
    assert {"found", "accepted", "skipped", "classes", "duplicates", "leaks"} <= set(tree)
    assert tree["classes"] == {"cat": 15, "dog": 16}
    assert tree["splits"]["test"] == {"cat": 4, "dog": 5}
    groups = {(each["kind"], *each["files"]) for each in tree["duplicates"]}
    assert groups == {
        ("equal", "train/cat/0.png", f"train/cat/{EQUAL}"),
        ("equal", "train/cat/2.png", f"train/dog/{CONFLICT}"),
        ("equal", f"test/dog/{LEAK}", "train/dog/3.png"),
        ("near", "train/cat/1.png", f"train/cat/{NEAR}"),
    }
    assert [each["files"] for each in tree["conflicts"]] == [["train/cat/2.png", f"train/dog/{CONFLICT}"]]
    assert [(each["files"], each["splits"]) for each in tree["leaks"]] == [
        ([f"test/dog/{LEAK}", "train/dog/3.png"], ["test", "train"])
    ]
    assert tree["darkest"][0] == {"file": "train/dog/night.png", "brightness": round(3 / 255, 4)}
    assert tree["brightest"][0]["file"] == "train/dog/snow.png"
    assert tree["blurriest"][0]["file"] == "train/cat/blurred.png"
    assert tree["sizes"] == {"smallest": "64x64", "median": "64x64", "largest": "80x64"}
    assert tree["modes"] == {"RGB": 30, "L": 1}
    assert tree["formats"] == {"PNG": 30, "JPEG": 1}


def test_the_page_shows_it_and_lets_no_name_act_as_markup(checked: tuple[Health, Path, Path]) -> None:
    html = (checked[2] / "health.html").read_text()
    page = Page()
    page.feed(html)
    page.close()
    shown = {row[0]: row[1] for row in page.table("What", "Value")}
    assert shown["Files found"] == "34"
    assert shown["Images accepted"] == "31"
    assert shown["Pairs of near duplicates"] == "1"
    assert {row[0] for row in page.table("File", "Reason")} == {
        "train/cat/empty.jpg", "train/dog/<b>note</b>.jpg", "stray.png",
    }  # fmt: skip
    assert not page.of("b")
    assert page.scripts == []
    assert "default-src 'none'" in html
    policy = [str(meta.get("content")) for meta in page.of("meta") if meta.get("http-equiv")]
    assert ["script-src 'none'" in rules for rules in policy] == [True]
    assert not page.of("noscript")
    assert [text for level, text in page.headings if level == 2] == [
        "Overview", "Class balance", "Skipped files", "Duplicates", "The same image in two classes",
        "The same image in train and test", "Darkest, brightest, blurriest",
    ]  # fmt: skip
    assert all(image.get("alt") for image in page.of("img"))
    assert len(page.of("img")) == 2 * 3 + 2 + 2 + 2 + 3 * 10
    assert not [
        a for _, a in page.elements for key in ("src", "href") if not str(a.get(key, "#")).startswith(("#", "data:"))
    ]


def test_sharpness_and_brightness_by_hand() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    stats = image_stats(Image.fromarray(noise))
    luma = noise.astype(float)
    kernel = [np.roll(luma, shift, axis) for shift in (1, -1) for axis in (0, 1)]
    laplacian = (np.sum(kernel, axis=0) - 4 * luma)[1:-1, 1:-1]
    assert stats.sharpness == pytest.approx(laplacian.std() / luma.std(), rel=1e-4)
    assert stats.brightness == pytest.approx(luma.mean() / 255, abs=0.003)
    sharp = [
        image_stats(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(r))).sharpness or 0 for r in (0, 1, 2, 4)
    ]
    assert sharp == sorted(sharp, reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (32, 31)])
def test_images_of_any_shape_have_statistics(size: tuple[int, int]) -> None:
    stats = image_stats(Image.new("RGB", size, (9, 8, 7)))
    assert (stats.width, stats.height, stats.sharpness, stats.signature) == (*size, None, None)
    assert max(Image.open(io.BytesIO(stats.thumbnail)).size) <= 128


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"cat/1.png"}, "only one class, cat"),
        ({"1.png"}, "no usable image of a class"),
        ({"cat/1.png", "dog/1.png", "cow/note.txt"}, "no usable image of class cow"),
        ({"train/a/1.png", "train/b/1.png", "test/c/1.png"}, "the test split has classes that the train split lacks"),
    ],
)
def test_an_untrainable_data_set_is_reported_not_refused(tmp_path: Path, names: set[str], problem: str) -> None:
    content = encoded(smooth(), "PNG")
    root = make_tree(tmp_path / "pets", {name: b"text" if name.endswith("txt") else content for name in names})
    health = check(root, out=tmp_path / "out")
    assert problem in health.problem
    assert health.found == len(names)
    with pytest.raises(DataError, match=problem.split(",")[0]):
        load_images(DataConfig(source=str(root)))
    assert "Training on this data set is not possible" in (tmp_path / "out/health.html").read_text()


def test_a_named_data_set_is_checked_too() -> None:
    health = check("digits")
    assert (health.found, len(health.class_names)) == (1797, 10)
    assert "below 32 px" in health.duplicates.unclear


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "pets", files())
    code, out, _ = run_convscope(capsys, "check", "pets")
    assert code == 0
    assert "found      34 = 31 accepted + 3 skipped; 1 that are never images ignored" in out
    assert "leaks      1 images are in more than one split of the source" in out
    assert sorted(path.name for path in (tmp_path / "health-pets").iterdir()) == [
        ".gitignore",
        "health.html",
        "health.json",
    ]
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = run_convscope(capsys, "check", "pets", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "health-pets/health.json").read_text())
    assert sorted(tmp_path.rglob("*")) == before
    code, _, err = run_convscope(capsys, "check", "nowhere")
    assert code == 2
    assert "unknown data set or folder 'nowhere'" in " ".join(err.split())


def test_a_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no folder, archive or CSV"):
        check("nowhere/at/all.zip")


@pytest.mark.parametrize("width", [1280, 390])
def test_browser_shows_the_page_without_overflow(
    browser: Any,  # noqa: ANN401
    tmp_path: Path,
    width: int,
) -> None:
    named = {f"{name[:80].replace('/', '_')}/{i}.png": encoded(smooth(SIDE, 70, 10 * n + i), "PNG")
             for n, name in enumerate(HOSTILE) for i in range(2)}  # fmt: skip
    root = make_tree(tmp_path / "pets", named | {f"{'x' * 80}/copy.png": encoded(smooth(SIDE, 70, 0), "PNG")})
    check(root, out=tmp_path / "out")
    page = browser.new_page(viewport={"width": width, "height": 800})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.goto((tmp_path / "out/health.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Array.from(document.images).every(i => i.alt && i.complete && i.naturalWidth > 0)")
    assert page.locator("img").count() == 2 + 2 + 3 * 10
    assert page.locator("h2").count() == len(HEALTH_SECTIONS)
    assert problems == []
    page.close()
