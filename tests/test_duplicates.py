"""Duplicates and near duplicates, and what a leak between official splits does to the accuracy."""

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
from convscope.cpu import map_slices
from convscope.data.dataset import ImageSet, pixel_digests
from convscope.data.duplicates import NEAR, find_duplicates, group_duplicates, members_of, signature_of
from convscope.data.load import load_images
from convscope.data.splits import make_splits
from convscope.storage.files import read_csv, read_json
from tests.support import run_convscope as command
from tests.support import smooth

SIDE = 64


def photos(n: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([smooth(SIDE, SIDE, seed + i)[:, :, :channels] for i in range(n)])


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
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
    images = photos(30)
    changed = [np.asarray(change(Image.fromarray(image))) for image in images[:10]]
    found = find_duplicates(np.concatenate([images, np.stack(changed)]))
    assert found.equal.tolist() == list(range(40))
    assert sorted(map(tuple, found.near.tolist())) == ([(i, 30 + i) for i in range(10)] if near else [])
    assert [len(members) for members in members_of(found.groups)] == [2] * (10 if near else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_are_those_of_all_correlations(channels: int) -> None:
    """By hand: thumbnails by averaging 4x4 pixels, Pearson's correlation without the mean of each channel."""
    base = photos(200, channels)
    noise = np.random.default_rng(1).normal(0, np.linspace(1, 90, 200)[:, None, None, None], base.shape)
    images = np.concatenate([base, np.clip(base + noise, 0, 255).astype(np.uint8)])
    small = images.reshape(400, 16, 4, 16, 4, channels).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    correlation = np.corrcoef(small.reshape(400, -1))
    expected = {(i, j) for i, j in np.argwhere(np.triu(correlation, 1) >= NEAR)}
    doubtful = {(i, j) for i, j in np.argwhere(np.abs(np.triu(correlation, 1) - NEAR) < 2e-3)}  # Pillow rounds
    found = find_duplicates(images)
    assert 20 < len(expected) < 200
    assert set(map(tuple, found.near.tolist())) ^ expected <= doubtful
    assert np.allclose(found.correlation, correlation[found.near[:, 0], found.near[:, 1]], atol=3e-3)
    assert np.all(np.diff(found.correlation) <= 0)


def test_equal_images_and_chains_are_one_group() -> None:
    images = photos(6)
    other = np.asarray(saved_again(Image.fromarray(images[1]), 40))
    found = find_duplicates(np.stack([*images, other, images[1], other]))
    assert found.equal.tolist() == [0, 1, 2, 3, 4, 5, 6, 1, 6]
    assert found.near.tolist() == [[1, 6]]
    assert found.groups.tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 1]


def test_blank_images_have_no_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    blank = rng.integers(100, 103, (20, SIDE, SIDE, 3), dtype=np.uint8)
    assert not signature_of(blank[0]).any()
    assert len(find_duplicates(blank).near) == 0


@pytest.mark.parametrize("size", [None, 32])
def test_digits_are_not_near_duplicates_of_one_another(size: int | None) -> None:
    images = load_images(DataConfig(source="mnist5k", image_size=size))
    found = find_duplicates(images.images)
    assert len(found.near) == 0
    assert np.array_equal(found.groups, found.equal)
    assert ("cannot be recognized" if size else "below 32 px") in found.unclear
    signatures = np.stack([signature_of(image) for image in images.images[:2000]])
    assert ((signatures @ signatures.T >= NEAR).sum() - 2000) / 2 > 20  # by correlation alone they would be


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 100])
def test_slices_hold_all_in_order(length: int) -> None:
    pieces = map_slices(lambda rows: list(range(length))[rows], length)
    assert [number for piece in pieces for number in piece] == list(range(length))
    assert all(pieces)


def test_hashes_are_those_of_the_pixels_alone() -> None:
    images = photos(9)
    expected = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    assert pixel_digests(images).tobytes() == b"".join(expected)
    assert pixel_digests(images[:, ::-1]).tobytes() != pixel_digests(images).tobytes()


def test_nothing_and_one_image() -> None:
    assert group_duplicates(np.zeros(1, np.int64), np.zeros((1, 4), np.float32)).groups.tolist() == [0]


# ---------------------------------------------------------------- splits


def make_set(source_splits: tuple[str, ...] = ()) -> ImageSet:
    """Return 60 images in two classes; number i + 40 is i saved again, for i up to 19."""
    base = photos(40)
    again = [np.asarray(saved_again(Image.fromarray(image), 60)) for image in base[:20]]
    labels = np.array([0, 1] * 30, np.int64)
    labels[45] = 0  # image 5 is in class 1
    ids = tuple(f"{i}.jpg" for i in range(60))
    return ImageSet("made", np.stack([*base, *again]), labels, ("a", "b"), ids, source_splits or ("",) * 60)


def test_near_duplicates_stay_in_one_split() -> None:
    images = make_set()
    for seed in range(5):
        splits = make_splits(images, DataConfig(source="made", split=(50, 25, 25), split_seed=seed))
        in_split = [set(splits.groups[indices]) for _, indices in splits.items()]
        assert sum(map(len, in_split)) == 40
        assert sum(len(indices) for _, indices in splits.items()) == 60
        assert len(splits.leaked("test")) == len(splits.leaked("validation")) == 0
        assert any("near duplicates: 20 pairs" in note for note in splits.notes)
        assert any(note.startswith("conflict: 1 images") and "5.jpg = 45.jpg" in note for note in splits.notes)


def test_official_splits_keep_their_leaks_with_a_note() -> None:
    """Image i is in the train split, i + 40 in the test split."""
    images = make_set(("train",) * 40 + ("test",) * 20)
    splits = make_splits(images, DataConfig(source="made"))
    assert splits.test.tolist() == splits.leaked("test").tolist() == list(range(40, 60))
    assert any(note.startswith("leak: 20 test images") and "(0 pixel by pixel)" in note for note in splits.notes)


def test_official_validation_images_are_not_joined_by_others() -> None:
    images = make_set(("train",) * 20 + ("validation",) * 20 + ("train",) * 5 + ("test",) * 15)
    splits = make_splits(images, DataConfig(source="made"))
    assert splits.validation.tolist() == list(range(20, 40))
    assert splits.train.tolist() == [*range(20), *range(40, 45)]
    assert splits.leaked("test").tolist() == list(range(45, 60))


def test_accuracy_is_given_with_and_without_leaked_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_set()
    for index, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        split = "test" if 30 <= index < 50 else "train"  # 40..49 are 0..9 saved again
        folder = tmp_path / "pets" / split / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    out = tmp_path / "run"
    code, printed, _ = command(
        capsys, "train", tmp_path / "pets", "--model", "mlp", "--image-size", 32, "--epochs", 1, "--out", out
    )
    assert code == 0
    assert "without the 10 that training or validation data have too" in " ".join(printed.split())
    rows = [row for row in read_csv(out / "predictions.csv") if 30 <= int(row["image"].split("/")[2][:-4]) < 40]
    correct = sum(row["true"] == row["predicted"] for row in rows)
    results = read_json(out / "results.json")
    assert results["leaked_images"] == 10
    assert (results["accuracy"]["n"], results["accuracy_without_leaked"]["n"]) == (20, 10)
    assert results["accuracy_without_leaked"]["correct"] == correct
    html = (out / "report.html").read_text()
    assert "Accuracy without 10 images shared with the training or validation split" in html
    assert "leak: 10 test images" in html
    again = convscope.evaluate(out)
    assert (again.leaked_images, again.accuracy_without_leaked) == (
        10,
        convscope.evaluate(out).accuracy_without_leaked,
    )
