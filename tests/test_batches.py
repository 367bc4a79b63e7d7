from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convscope.data.augment import AUGMENTATIONS
from convscope.data.batches import (
    LARGE_PICTURE,
    Preprocessing,
    channel_statistics,
    make_preprocessing,
    make_resident,
    training_batches,
)
from tests.conftest import make_image_set

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(channels: int) -> None:
    pictures = make_image_set(channels=channels).images
    mean, std = channel_statistics(pictures)
    assert mean == pytest.approx((pictures / 255).mean(axis=(0, 1, 2)), rel=1e-9)
    assert std == pytest.approx((pictures / 255).std(axis=(0, 1, 2)), rel=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalize", [True, False])
def test_input_is_the_formula(channels: int, normalize: bool) -> None:
    pictures = make_image_set(channels=channels).images
    preprocessing = make_preprocessing(*channel_statistics(pictures), normalize=normalize)
    x = preprocessing.apply(torch.from_numpy(pictures))
    mean, std = (np.array(v).reshape(1, 1, 1, -1) for v in (preprocessing.mean, preprocessing.std))
    expected = ((pictures / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(x.numpy(), expected, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)
    if not normalize:
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_large_pictures_are_read_where_they_lie(channels: int) -> None:
    """Beyond LARGE_PICTURE values each picture is normalized on its own, out of a data set that nobody may change."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 96, 200 // channels * 2, channels), np.uint8)
    assert pictures[0].size >= LARGE_PICTURE
    pictures.flags.writeable = False
    images = replace(make_image_set((2, 3), channels=channels), images=pictures)
    data = make_resident(images, np.array([3, 0, 3]), CPU)
    assert np.shares_memory(data.pictures.numpy(), pictures)
    preprocessing = Preprocessing((0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels])
    mean, std = (np.array(v) for v in (preprocessing.mean, preprocessing.std))
    expected = ((pictures[[3, 0, 3]] / 255 - mean) / std).transpose(0, 3, 1, 2)
    x = preprocessing.apply(data.pictures, data.rows)
    assert np.allclose(x.numpy(), expected, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    pictures = np.full((4, 3, 3, 1), 7, np.uint8)
    assert make_preprocessing(*channel_statistics(pictures), normalize=True).std == (1.0,)


def collect(
    batch_size: int, epoch: int, first_step: int = 0, augment: tuple[str, ...] = (), side: int = 8
) -> list[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    images = make_image_set((300, 200), side=side, channels=3)
    data = make_resident(images, np.arange(len(images)), CPU)
    preprocessing = make_preprocessing(*channel_statistics(images.images), normalize=True)
    return list(
        training_batches(
            data,
            preprocessing,
            batch_size=batch_size,
            seed=3,
            epoch=epoch,
            augment=augment,
            first_step=first_step,
        )
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500, 1000])
def test_an_epoch_shows_every_picture_once(batch_size: int) -> None:
    batches = collect(batch_size, 1)
    assert sorted(n for _, _, numbers in batches for n in numbers) == list(range(500))
    assert all(len(x) == len(y) == len(n) for x, y, n in batches)
    assert {len(x) for x, _, _ in batches[:-1]} <= {batch_size}


def test_epochs_differ_in_order() -> None:
    assert collect(50, 1)[0][2].tolist() != collect(50, 2)[0][2].tolist()


@pytest.mark.parametrize("augment", [(), tuple(AUGMENTATIONS)])
@pytest.mark.parametrize("side", [8, 64])  # at 64 px an epoch takes several chunks
@pytest.mark.parametrize("first_step", [1, 3, 5])
def test_an_epoch_entered_late_gives_the_same_bits(augment: tuple[str, ...], side: int, first_step: int) -> None:
    whole, rest = collect(60, 1, 0, augment, side)[first_step:], collect(60, 1, first_step, augment, side)
    assert len(whole) == len(rest)
    for (x, y, n), (x2, y2, n2) in zip(whole, rest, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert np.array_equal(n, n2)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmentation_keeps_shape_and_range_and_changes_something(name: str, channels: int) -> None:
    pictures = torch.from_numpy(make_image_set((16, 16), channels=channels).images).permute(0, 3, 1, 2) / 255
    generator = torch.Generator().manual_seed(0)
    changed = AUGMENTATIONS[name](pictures, lambda: torch.rand(len(pictures), generator=generator))
    assert changed.shape == pictures.shape
    assert changed.min() >= -1e-6
    assert changed.max() <= 1 + 1e-6
    assert not torch.allclose(changed, pictures, atol=1e-3)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_picture_is_changed_alike_in_any_company(name: str) -> None:
    pictures = torch.from_numpy(make_image_set((8, 8), channels=3).images)
    plain = Preprocessing((0.0,) * 3, (1.0,) * 3)
    together = plain.apply_augmented(pictures, [name], torch.arange(16), 0, "augment", 1)
    alone = plain.apply_augmented(pictures[5:6], [name], torch.tensor([5]), 0, "augment", 1)
    assert torch.allclose(together[5:6], alone, atol=1e-6)


def test_neutral_numbers_change_nothing() -> None:
    pictures = torch.rand(4, 3, 8, 8)
    half = lambda: torch.full((4,), 0.5)  # noqa: E731
    for name in ("rotate", "zoom", "color", "crop", "flip"):
        assert torch.allclose(AUGMENTATIONS[name](pictures, half), pictures, atol=1e-5), name


def test_crop_moves_whole_pixels() -> None:
    pictures = torch.rand(1, 1, 8, 8)
    moved = AUGMENTATIONS["crop"](pictures, lambda: torch.tensor([0.99]))  # furthest down and right in the padding
    assert torch.equal(moved[0, 0, :7, :7], pictures[0, 0, 1:, 1:])
