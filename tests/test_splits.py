"""Splits: stratified, seeded, without one image in two of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.duplicates import find_duplicates
from convscope.data.load import load_images
from convscope.data.splits import Splits, make_splits, recorded_splits
from convscope.errors import DataError
from convscope.storage.files import csv_bytes
from tests.support import make_image_set, smooth


def make(images: ImageSet, shares: tuple[float, float, float] | None = None, seed: int = 0) -> Splits:
    return make_splits(images, DataConfig(source="made", split=shares, split_seed=seed))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=5), st.integers(0, 3))
def test_every_image_is_in_one_split_and_classes_are_in_proportion(counts: list[int], seed: int) -> None:
    images = make_image_set(tuple(counts))
    splits = make(images, (60, 20, 20), seed)
    assert sorted([*splits.train, *splits.validation, *splits.test]) == list(range(len(images)))
    for label, n in enumerate(counts):
        for indices, share in ((splits.train, 0.6), (splits.validation, 0.2), (splits.test, 0.2)):
            assert abs((images.labels[indices] == label).sum() - n * share) <= 1.5


def test_a_split_depends_on_its_seed_alone() -> None:
    images = make_image_set()
    assert np.array_equal(make(images, seed=1).test, make(images, seed=1).test)
    assert not np.array_equal(make(images, seed=1).test, make(images, seed=2).test)


def test_equal_images_stay_together() -> None:
    images = make_image_set((40, 40))
    pixels = images.images.copy()
    pixels[1:20:2] = pixels[0:19:2]  # ten pairs within a class
    pixels[45] = pixels[5]  # one image in two classes
    images = replace(images, images=pixels)
    groups = find_duplicates(images.images).groups
    for seed in range(5):
        splits = make(images, (50, 25, 25), seed)
        in_split = [set(groups[indices]) for _, indices in splits.items()]
        assert sum(map(len, in_split)) == len(set.union(*in_split))
        assert any("11 images repeat" in note for note in splits.notes)
        assert any("conflict: 1 images" in note and "5.png" in note for note in splits.notes)


def test_official_splits_are_kept_and_a_leak_is_reported() -> None:
    images = make_image_set((40, 40))
    official = tuple("test" if i % 4 == 0 else "train" for i in range(80))
    pixels = images.images.copy()
    pixels[1] = pixels[0]
    splits = make(replace(images, source_splits=official, images=pixels))
    assert splits.test.tolist() == list(range(0, 80, 4))
    assert len(splits.validation) == 6  # ten per cent of 30, rounded, in each class
    assert any("leak: 1 test images" in note and "(1 pixel by pixel)" in note for note in splits.notes)
    assert splits.leaked("test").tolist() == [0]


def test_all_splits_official() -> None:
    official = tuple(("train", "validation", "test")[i % 3] for i in range(60))
    splits = make(replace(make_image_set(), source_splits=official))
    assert [len(indices) for _, indices in splits.items()] == [20, 20, 20]


def test_no_validation_when_asked() -> None:
    official = tuple("test" if i % 4 == 0 else "train" for i in range(60))
    assert len(make(replace(make_image_set(), source_splits=official), (100, 0, 0)).validation) == 0


def test_a_class_with_one_image_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' has 1 image.*add images, remove the class"):
        make(make_image_set((10, 1)))


def test_a_class_with_two_images_is_trained_on_and_tested() -> None:
    images = make_image_set((10, 2))
    splits = make(images)
    assert [(images.labels[indices] == 1).sum() for _, indices in splits.items()] == [1, 0, 1]
    assert any("only 2 image(s)" in note for note in splits.notes)


def test_split_csv_names_every_image_once() -> None:
    images = make_image_set()
    rows = list(make(images).rows(images))
    assert [row[0] for row in rows] == list(images.ids)
    assert {row[2] for row in rows} == {"train", "validation", "test"}
    assert rows[0][1] == "class 0"


def scene(frames: int, others: int, seed: int = 0) -> ImageSet:
    """Return two classes of 60 images: other photos, and frames of one scene with a few other photos."""
    rng = np.random.default_rng(seed)
    photos = [smooth(32, 32, k) for k in range(60 + others)]
    one = smooth(32, 32, 999).astype(int)
    taken = [np.clip(one + rng.integers(-8, 9, one.shape), 0, 255).astype(np.uint8) for _ in range(frames)]
    pixels = np.stack([*photos, *taken])
    labels = np.repeat([0, 1], [60, others + frames])
    ids = tuple(map(str, range(len(pixels))))
    return ImageSet("made", pixels, labels, ("a", "b"), ids, ("",) * len(ids))


def test_groups_are_placed_by_size() -> None:
    images = scene(57, 3)
    for seed in range(4):
        splits = make(images, seed=seed)
        assert (images.labels[splits.train] == 1).sum() == 57
        assert len(splits.leaked("test")) == 0
        assert any("class 'b': 57 of 60 images are in the training split; 70% were wanted" in n for n in splits.notes)
        again = recorded_splits(images, {row[0]: row[2] for row in splits.rows(images)}, DataConfig(source="made"))
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(splits.items(), again.items(), strict=True))


def test_a_fixed_camera_has_no_near_duplicates_unless_asked() -> None:
    images = scene(60, 0)
    images = replace(images, labels=np.arange(120) % 2, images=np.concatenate([images.images[60:]] * 2))
    rng = np.random.default_rng(1)
    images = replace(images, images=images.images ^ rng.integers(0, 2, images.images.shape, dtype=np.uint8))
    splits = make(images)
    assert [np.bincount(images.labels[rows]).tolist() for _, rows in splits.items()] == [[42, 42], [9, 9], [9, 9]]
    assert any("cannot be told apart here: 120 of 120" in note for note in splits.notes)
    with pytest.raises(DataError, match="--near-duplicates keep"):
        make_splits(images, DataConfig(source="made", near_duplicates="group"))
    kept = make_splits(images, DataConfig(source="made", near_duplicates="keep"))
    assert np.array_equal(kept.train, splits.train)


@pytest.mark.parametrize(("name", "digest"), [("digits", "5a7b8ebe91952851"), ("mnist5k", "15a927c554c93390")])
def test_the_splits_of_named_sets_stay(name: str, digest: str) -> None:
    images = load_images(DataConfig(source=name))
    rows = csv_bytes(("image", "label", "split"), make_splits(images, DataConfig(source=name)).rows(images))
    assert hashlib.sha256(rows).hexdigest()[:16] == digest
