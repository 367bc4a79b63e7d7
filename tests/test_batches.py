from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from convscope.config import Augmentation, DataConfig, ModelConfig, RunConfig, TrainConfig
from convscope.data.augment import AUGMENTATIONS, LEAST_ERASED, MIXUP, MIXUP_ALPHA, MOST_ERASED, mixup_of
from convscope.data.batches import (
    LARGE_IMAGE,
    Preprocessing,
    channel_statistics,
    largest_batches,
    make_preprocessing,
    make_resident,
    num_batches,
    num_micro_batches,
    training_batches,
)
from convscope.errors import UsageError
from tests.support import make_image_set

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(channels: int) -> None:
    images = make_image_set(channels=channels).images
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)), rel=1e-9)
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)), rel=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalize", [True, False])
def test_input_is_the_formula(channels: int, normalize: bool) -> None:
    images = make_image_set(channels=channels).images
    preprocessing = make_preprocessing(*channel_statistics(images), normalize=normalize)
    x = preprocessing.apply(torch.from_numpy(images))
    mean, std = (np.array(v).reshape(1, 1, 1, -1) for v in (preprocessing.mean, preprocessing.std))
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(x.numpy(), expected, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)
    if not normalize:
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_not_copied(channels: int) -> None:
    """Beyond LARGE_IMAGE values each image is normalized on its own, out of a read-only data set."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 96, 200 // channels * 2, channels), np.uint8)
    assert pixels[0].size >= LARGE_IMAGE
    pixels.flags.writeable = False
    images = replace(make_image_set((2, 3), channels=channels), images=pixels)
    data = make_resident(images, np.array([3, 0, 3]), CPU)
    assert np.shares_memory(data.images.numpy(), pixels)
    preprocessing = Preprocessing((0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels])
    mean, std = (np.array(v) for v in (preprocessing.mean, preprocessing.std))
    expected = ((pixels[[3, 0, 3]] / 255 - mean) / std).transpose(0, 3, 1, 2)
    x = preprocessing.apply(data.images, data.rows)
    assert np.allclose(x.numpy(), expected, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    images = np.full((4, 3, 3, 1), 7, np.uint8)
    assert make_preprocessing(*channel_statistics(images), normalize=True).std == (1.0,)


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
            TrainConfig(batch_size=batch_size, seed=3, augment=augment),
            epoch=epoch,
            num_classes=2,
            first_step=first_step,
        )
    )


@pytest.mark.parametrize("side", [8, 64])  # at 64 px an epoch takes several chunks
@pytest.mark.parametrize(
    ("batch_size", "last"), [(1, 1), (7, 3), (64, 52), (499, 500), (500, 500), (1000, 500), (2, 2), (3, 2), (100, 100)]
)
def test_an_epoch_shows_every_image_once_and_its_last_batch_is_never_one_image(
    batch_size: int, last: int, side: int
) -> None:
    batches = collect(batch_size, 1, side=side)
    assert sorted(n for _, _, numbers in batches for n in numbers) == list(range(500))
    assert all(len(x) == len(y) == len(n) for x, y, n in batches)
    assert {len(x) for x, _, _ in batches[:-1]} <= {batch_size}
    assert len(batches[-1][0]) == last
    assert len(batches) == num_batches(500, batch_size)
    assert (len(batches[0][0]), last) == largest_batches(500, batch_size)


def test_a_batch_of_one_image_is_split_in_no_way() -> None:
    """By hand: 17 images that are trained on in batches of 16, and the sizes of their micro-batches."""
    assert [num_micro_batches(17, 16, n) for n in (1, 2, 8, 16)] == [1, 3, 9, 17]
    assert [num_micro_batches(17, 16, n, least=2) for n in (1, 2, 8, 16)] == [1, 3, 8, 8]
    assert [num_micro_batches(n, 16, 16, least=2) for n in (1, 2, 3)] == [1, 1, 1]


def test_epochs_differ_in_order() -> None:
    assert collect(50, 1)[0][2].tolist() != collect(50, 2)[0][2].tolist()


@pytest.mark.parametrize("augment", [(), tuple(AUGMENTATIONS), ("flip", MIXUP)])
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
    images = torch.from_numpy(make_image_set((16, 16), channels=channels).images).permute(0, 3, 1, 2) / 255
    generator = torch.Generator().manual_seed(0)
    changed = AUGMENTATIONS[name](images, lambda: torch.rand(len(images), generator=generator))
    assert changed.shape == images.shape
    assert changed.min() >= -1e-6
    assert changed.max() <= 1 + 1e-6
    assert not torch.allclose(changed, images, atol=1e-3)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    images = torch.from_numpy(make_image_set((8, 8), channels=3).images)
    plain = Preprocessing((0.0,) * 3, (1.0,) * 3)
    together = plain.apply_augmented(images, [name], torch.arange(16), 0, "augment", 1)
    alone = plain.apply_augmented(images[5:6], [name], torch.tensor([5]), 0, "augment", 1)
    assert torch.allclose(together[5:6], alone, atol=1e-6)


def test_every_configurable_augmentation_exists() -> None:
    assert set(get_args(Augmentation)) == {*AUGMENTATIONS, MIXUP}


def test_erasing_covers_one_rectangle_of_half_the_images_with_their_mean() -> None:
    images = torch.rand(400, 3, 40, 30) * 0.5
    generator = torch.Generator().manual_seed(1)
    erased = AUGMENTATIONS["erase"](images, lambda: torch.rand(400, generator=generator))
    changed = (erased != images).any(dim=1)
    assert 150 < changed.any(dim=(1, 2)).sum() < 250
    for before, after, where in zip(images, erased, changed, strict=True):
        if where.any():
            rows, columns = where.any(dim=1).nonzero(), where.any(dim=0).nonzero()
            height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
            assert where.sum() == height * width  # one whole rectangle
            assert LEAST_ERASED * 0.8 < height * width / 1200 < MOST_ERASED * 1.15  # sides are whole pixels
            covered = after[:, where]
            assert torch.allclose(covered, before.mean(dim=(1, 2))[:, None].expand_as(covered))


def test_mixup_is_the_formula_and_depends_on_nothing_but_seed_epoch_and_image() -> None:
    images = make_image_set((30, 20), channels=3)
    data = make_resident(images, np.arange(50), CPU)
    plain = Preprocessing((0.2,) * 3, (0.3,) * 3)
    seen = {}
    for batch_size in (50, 7, 1):
        config = TrainConfig(batch_size=batch_size, seed=3, augment=("flip", MIXUP))
        for x, labels, numbers in training_batches(data, plain, config, epoch=2, num_classes=2):
            assert labels.shape == (len(numbers), 2)
            for place, number in enumerate(numbers):
                first = seen.setdefault(number, (x[place], labels[place]))
                assert torch.allclose(first[0], x[place], atol=1e-6)
                assert torch.equal(first[1], labels[place])
    partners, shares = mixup_of(np.arange(50), 50, 3, MIXUP, 2)
    alone = plain.apply_augmented(data.images[data.rows], ["flip"], torch.arange(50), 3, "augment", 2)
    for number, (partner, share) in enumerate(zip(partners, shares, strict=True)):
        expected = share * alone[number] + (1 - share) * alone[partner]
        assert torch.allclose(seen[number][0], expected, atol=1e-5)
        target = share * np.eye(2)[images.labels[number]] + (1 - share) * np.eye(2)[images.labels[partner]]
        assert np.allclose(seen[number][1].numpy(), target, atol=1e-6)


def test_shares_of_mixup_are_beta_distributed_and_partners_uniform() -> None:
    numbers = np.arange(20_000)
    partners, shares = mixup_of(numbers, 100, 0, MIXUP, 1)
    assert 0.5 <= shares.min() <= shares.max() <= 1
    beta = np.random.default_rng(0).beta(MIXUP_ALPHA, MIXUP_ALPHA, 20_000)
    assert ks_2samp(shares, np.maximum(beta, 1 - beta).astype(np.float32)).pvalue > 1e-3
    counts = np.bincount(partners, minlength=100)
    assert len(counts) == 100
    assert ((counts - 200) ** 2 / 200).sum() < 150  # chi-squared of 99 degrees of freedom: 99.9 % lie below 148
    assert not np.array_equal(partners, mixup_of(numbers, 100, 0, MIXUP, 2)[0])


def test_mixup_needs_a_network_that_learns() -> None:
    data, train = DataConfig(source="x"), TrainConfig(augment=("flip", MIXUP))
    RunConfig(data=data, train=train)
    with pytest.raises(UsageError, match="leave mixup out of --augment, or train all layers with --no-freeze"):
        RunConfig(data=data, model=ModelConfig(name="resnet18", pretrained=True), train=train)


def test_neutral_numbers_change_nothing() -> None:
    images = torch.rand(4, 3, 8, 8)
    half = lambda: torch.full((4,), 0.5)  # noqa: E731
    for name in ("rotate", "zoom", "color", "crop", "flip"):
        assert torch.allclose(AUGMENTATIONS[name](images, half), images, atol=1e-5), name


def test_crop_moves_whole_pixels() -> None:
    images = torch.rand(1, 1, 8, 8)
    moved = AUGMENTATIONS["crop"](images, lambda: torch.tensor([0.99]))  # furthest down and right in the padding
    assert torch.equal(moved[0, 0, :7, :7], images[0, 0, 1:, 1:])
