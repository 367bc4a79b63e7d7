"""Pictures that are there more than once, and what a leak between official parts does to the accuracy."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

import convscope
from convscope.config import DataConfig
from convscope.data import load_images
from convscope.data.duplicates import NEAR, find_duplicates, members_of, signature_of, tie
from convscope.data.image_set import ImageSet, pixel_digests
from convscope.data.splits import make_splits
from convscope.processors import map_slices
from convscope.runs import read_csv, read_json
from tests.test_intake import smooth
from tests.test_main_job import convscope as command

SIDE = 64


def photos(n: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([smooth(SIDE, SIDE, seed + i)[:, :, :channels] for i in range(n)])


def saved_again(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], bool]] = {
    "saved-again": (lambda p: saved_again(p, 30), True),
    "resized": (lambda p: p.resize((24, 24)).resize((SIDE, SIDE)), True),
    "brighter": (lambda p: ImageEnhance.Brightness(p).enhance(1.15), True),
    "less-contrast": (lambda p: ImageEnhance.Contrast(p).enhance(0.6), True),
    "mirrored": (lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), False),
    "turned": (lambda p: p.rotate(90), False),
    "cropped": (lambda p: p.crop((10, 10, 54, 54)).resize((SIDE, SIDE)), False),
    "negative": (lambda p: Image.eval(p, lambda v: 255 - v), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_which_changes_leave_a_near_duplicate(name: str) -> None:
    change, near = CHANGES[name]
    pictures = photos(30)
    changed = [np.asarray(change(Image.fromarray(picture))) for picture in pictures[:10]]
    found = find_duplicates(np.concatenate([pictures, np.stack(changed)]))
    assert found.equal.tolist() == list(range(40))
    assert sorted(map(tuple, found.near.tolist())) == ([(i, 30 + i) for i in range(10)] if near else [])
    assert [len(members) for members in members_of(found.groups)] == [2] * (10 if near else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_are_those_of_all_correlations(channels: int) -> None:
    """By hand: thumbnails by averaging 4x4 pixels, Pearson's correlation without the mean of each channel."""
    base = photos(200, channels)
    noise = np.random.default_rng(1).normal(0, np.linspace(1, 90, 200)[:, None, None, None], base.shape)
    pictures = np.concatenate([base, np.clip(base + noise, 0, 255).astype(np.uint8)])
    small = pictures.reshape(400, 16, 4, 16, 4, channels).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    correlation = np.corrcoef(small.reshape(400, -1))
    expected = {(i, j) for i, j in np.argwhere(np.triu(correlation, 1) >= NEAR)}
    doubtful = {(i, j) for i, j in np.argwhere(np.abs(np.triu(correlation, 1) - NEAR) < 2e-3)}  # Pillow rounds
    found = find_duplicates(pictures)
    assert 20 < len(expected) < 200
    assert set(map(tuple, found.near.tolist())) ^ expected <= doubtful
    assert np.allclose(found.likeness, correlation[found.near[:, 0], found.near[:, 1]], atol=3e-3)
    assert np.all(np.diff(found.likeness) <= 0)


def test_equal_ones_and_chains_are_one_group() -> None:
    pictures = photos(6)
    other = np.asarray(saved_again(Image.fromarray(pictures[1]), 40))
    found = find_duplicates(np.stack([*pictures, other, pictures[1], other]))
    assert found.equal.tolist() == [0, 1, 2, 3, 4, 5, 6, 1, 6]
    assert found.near.tolist() == [[1, 6]]
    assert found.groups.tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 1]


def test_blank_pictures_are_like_no_other() -> None:
    rng = np.random.default_rng(0)
    blank = rng.integers(100, 103, (20, SIDE, SIDE, 3), dtype=np.uint8)
    assert not signature_of(blank[0]).any()
    assert len(find_duplicates(blank).near) == 0


@pytest.mark.parametrize("size", [None, 32])
def test_digits_are_no_near_duplicates_of_one_another(size: int | None) -> None:
    images = load_images(DataConfig(source="mnist5k", image_size=size))
    found = find_duplicates(images.images)
    assert len(found.near) == 0
    assert np.array_equal(found.groups, found.equal)
    assert ("cannot be told" if size else "below 32 px") in found.unclear
    likeness = np.stack([signature_of(image) for image in images.images[:2000]])
    assert ((likeness @ likeness.T >= NEAR).sum() - 2000) / 2 > 20  # which they would be by likeness alone


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 100])
def test_slices_hold_all_in_order(length: int) -> None:
    parts = map_slices(lambda part: list(range(length))[part], length)
    assert [number for part in parts for number in part] == list(range(length))
    assert all(parts)


def test_hashes_are_those_of_the_pixels_alone() -> None:
    pictures = photos(9)
    expected = [hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in pictures]
    assert pixel_digests(pictures).tobytes() == b"".join(expected)
    assert pixel_digests(pictures[:, ::-1]).tobytes() != pixel_digests(pictures).tobytes()


def test_nothing_and_one_picture() -> None:
    assert tie(np.zeros(1, np.int64), np.zeros((1, 4), np.float32)).groups.tolist() == [0]


# ---------------------------------------------------------------- splits


def make_set(parts: tuple[str, ...] = ()) -> ImageSet:
    """Return 60 pictures in two classes; number i + 40 is i saved again, for i up to 19."""
    base = photos(40)
    again = [np.asarray(saved_again(Image.fromarray(picture), 60)) for picture in base[:20]]
    labels = np.array([0, 1] * 30, np.int64)
    labels[45] = 0  # picture 5 is in class 1
    ids = tuple(f"{i}.jpg" for i in range(60))
    return ImageSet("made", np.stack([*base, *again]), labels, ("a", "b"), ids, parts or ("",) * 60)


def test_near_duplicates_stay_on_one_side() -> None:
    images = make_set()
    for seed in range(5):
        splits = make_splits(images, DataConfig(source="made", split=(50, 25, 25), split_seed=seed))
        sides = [set(splits.groups[part]) for _, part in splits.items()]
        assert sum(map(len, sides)) == 40
        assert sum(len(part) for _, part in splits.items()) == 60
        assert len(splits.leaked("test")) == len(splits.leaked("validation")) == 0
        assert any("near duplicates: 20 pairs" in note for note in splits.notes)
        assert any(note.startswith("conflict: 1 pictures") and "5.jpg = 45.jpg" in note for note in splits.notes)


def test_official_parts_keep_their_leaks_and_say_so() -> None:
    """Picture i is in the train part, i + 40 in the test part."""
    images = make_set(("train",) * 40 + ("test",) * 20)
    splits = make_splits(images, DataConfig(source="made"))
    assert splits.test.tolist() == splits.leaked("test").tolist() == list(range(40, 60))
    assert any(note.startswith("leak: 20 test pictures") and "(0 pixel by pixel)" in note for note in splits.notes)


def test_official_validation_pictures_are_not_joined_by_others() -> None:
    images = make_set(("train",) * 20 + ("validation",) * 20 + ("train",) * 5 + ("test",) * 15)
    splits = make_splits(images, DataConfig(source="made"))
    assert splits.validation.tolist() == list(range(20, 40))
    assert splits.train.tolist() == [*range(20), *range(40, 45)]
    assert splits.leaked("test").tolist() == list(range(45, 60))


def test_accuracy_is_given_with_and_without_leaked_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_set()
    for index, (picture, label) in enumerate(zip(images.images, images.labels, strict=True)):
        part = "test" if 30 <= index < 50 else "train"  # 40..49 are 0..9 saved again
        folder = tmp_path / "pets" / part / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index}.png")
    out = tmp_path / "run"
    code, printed, _ = command(
        capsys, "train", tmp_path / "pets", "--model", "mlp", "--image-size", 32, "--epochs", 1, "--out", out
    )
    assert code == 0
    assert "without the 10 that training or validation data have too" in " ".join(printed.split())
    rows = [row for row in read_csv(out / "predictions.csv") if 30 <= int(row["picture"].split("/")[2][:-4]) < 40]
    right = sum(row["true"] == row["predicted"] for row in rows)
    results = read_json(out / "results.json")
    assert results["leaked_pictures"] == 10
    assert (results["accuracy"]["n"], results["accuracy_without_leaked"]["n"]) == (20, 10)
    assert results["accuracy_without_leaked"]["correct"] == right
    html = (out / "report.html").read_text()
    assert "Accuracy without 10 pictures that training or validation data have too" in html
    assert "leak: 10 test pictures" in html
    again = convscope.evaluate(out)
    assert (again.leaked_pictures, again.accuracy_without_leaked) == (
        10,
        convscope.evaluate(out).accuracy_without_leaked,
    )
