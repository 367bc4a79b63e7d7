from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.config import DataConfig
from convscope.data.duplicates import find_duplicates
from convscope.data.image_set import ImageSet
from convscope.data.splits import Splits, make_splits
from convscope.errors import DataError
from tests.conftest import make_image_set


def split(images: ImageSet, shares: tuple[float, float, float] | None = None, seed: int = 0) -> Splits:
    return make_splits(images, DataConfig(source="made", split=shares, split_seed=seed))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=5), st.integers(0, 3))
def test_every_picture_is_in_one_part_and_classes_are_in_proportion(counts: list[int], seed: int) -> None:
    images = make_image_set(tuple(counts))
    parts = split(images, (60, 20, 20), seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(images)))
    for label, n in enumerate(counts):
        for part, share in ((parts.train, 0.6), (parts.validation, 0.2), (parts.test, 0.2)):
            assert abs((images.labels[part] == label).sum() - n * share) <= 1.5


def test_a_split_depends_on_its_seed_alone() -> None:
    images = make_image_set()
    assert np.array_equal(split(images, seed=1).test, split(images, seed=1).test)
    assert not np.array_equal(split(images, seed=1).test, split(images, seed=2).test)


def test_equal_pictures_stay_together() -> None:
    images = make_image_set((40, 40))
    pixels = images.images.copy()
    pixels[1:20:2] = pixels[0:19:2]  # ten pairs within a class
    pixels[45] = pixels[5]  # one picture in two classes
    images = replace(images, images=pixels)
    groups = find_duplicates(images.images).groups
    for seed in range(5):
        parts = split(images, (50, 25, 25), seed)
        sides = [set(groups[part]) for _, part in parts.items()]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert any("11 pictures repeat" in note for note in parts.notes)
        assert any("conflict: 1 pictures" in note and "5.png" in note for note in parts.notes)


def test_official_parts_are_kept_and_a_leak_is_reported() -> None:
    images = make_image_set((40, 40))
    official = tuple("test" if i % 4 == 0 else "train" for i in range(80))
    pixels = images.images.copy()
    pixels[1] = pixels[0]
    parts = split(replace(images, parts=official, images=pixels))
    assert parts.test.tolist() == list(range(0, 80, 4))
    assert len(parts.validation) == 6  # ten per cent of 30, rounded, in each class
    assert any("leak: 1 test pictures" in note and "(1 pixel by pixel)" in note for note in parts.notes)
    assert parts.leaked("test").tolist() == [0]


def test_all_parts_official() -> None:
    official = tuple(("train", "validation", "test")[i % 3] for i in range(60))
    parts = split(replace(make_image_set(), parts=official))
    assert [len(indices) for _, indices in parts.items()] == [20, 20, 20]


def test_no_validation_when_asked() -> None:
    official = tuple("test" if i % 4 == 0 else "train" for i in range(60))
    assert len(split(replace(make_image_set(), parts=official), (100, 0, 0)).validation) == 0


def test_a_class_with_one_picture_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' has 1 picture.*add pictures, remove the class"):
        split(make_image_set((10, 1)))


def test_a_class_with_two_pictures_is_trained_on_and_tested() -> None:
    images = make_image_set((10, 2))
    parts = split(images)
    assert [(images.labels[indices] == 1).sum() for _, indices in parts.items()] == [1, 0, 1]
    assert any("only 2 picture(s)" in note for note in parts.notes)


def test_split_csv_names_every_picture_once() -> None:
    images = make_image_set()
    rows = list(split(images).rows(images))
    assert [row[0] for row in rows] == list(images.ids)
    assert {row[2] for row in rows} == {"train", "validation", "test"}
    assert rows[0][1] == "class 0"
