"""Batches for the network from one resident uint8 tensor.

Several batches are gathered, augmented and normalized at once: on small images a batch costs calls, not pixels. What
an image becomes depends on (seed, epoch, image) alone, so an epoch entered at any step gives the same batches.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.config import TrainConfig
from convscope.cpu import map_ahead
from convscope.data.augment import AUGMENTATIONS, MIXUP, Mixture, mixup_of
from convscope.data.dataset import ImageSet
from convscope.seeds import permutation, uniform

CHUNK_BYTES = 8 * 2**20
"""Size of the float32 images that are prepared at once; about a CPU's last-level cache."""
LARGE_IMAGE = 2**15
"""Images with at least this many values are normalized one by one."""
EXACT_ROWS = 256
"""The squares of 256 bytes add up to less than 2**24: their sum is exact in float32, in any order."""
MAX_ROW = 4096
"""Images with at most this many values are summed as one row each, larger ones row of pixels by row of pixels."""


@dataclass(frozen=True)
class Preprocessing:
    """How a uint8 image becomes the network's input: (pixel / 255 - mean) / std for each of C channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the network's input, float32 [B, C, H, W], from uint8 [B, H, W, C] or from some of its rows."""
        if images.device.type == "cpu" and images.shape[1:].numel() >= LARGE_IMAGE:
            return self._apply_one_by_one(images, range(len(images)) if rows is None else rows.tolist())
        chosen = images if rows is None else images.index_select(0, rows)  # seven times quicker than [rows]
        x = chosen.permute(0, 3, 1, 2).float()
        return self._normalize_in_place(x, full_range=255.0)

    def _apply_one_by_one(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        """Return what `apply` does; each image is read once and normalized while it is in the CPU's cache."""
        height, width, channels = images.shape[1:]
        offset, factor = self._affine(255.0, width, images.device)
        source, out = images.flatten(2), torch.empty(len(rows), height, width * channels)
        for x, row in zip(out.unbind(), rows, strict=True):
            torch.addcmul(offset, x.copy_(source[row]), factor, out=x)
        return out.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def apply_augmented(self, images: Tensor, names: Sequence[str], indices: Tensor, *words: int | str) -> Tensor:
        """Return the input with the named augmentations; random numbers are keyed by (words, image index [B])."""
        x = images.permute(0, 3, 1, 2).float().div_(255)
        index_values = indices.cpu().numpy()
        draw = count()

        def next_uniform() -> Tensor:
            return torch.from_numpy(uniform(index_values, *words, next(draw))).to(x.device)

        for name in names:
            x = AUGMENTATIONS[name](x, next_uniform)
        return self._normalize_in_place(x.contiguous(memory_format=torch.channels_last), full_range=1.0)

    def _normalize_in_place(self, x: Tensor, *, full_range: float) -> Tensor:
        if len(self.mean) == 1:  # numbers instead of tensors of one element: a faster kernel, the common case
            return x.sub_(self.mean[0] * full_range).mul_(1 / (self.std[0] * full_range))
        width = x.shape[3]
        rows = x.permute(0, 2, 3, 1).view(-1, width * len(self.mean))  # whole rows: three numbers do not vectorize
        offset, factor = self._affine(full_range, width, x.device)
        torch.addcmul(offset, rows, factor, out=rows)
        return x

    def _affine(self, full_range: float, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return offset and factor for a row of pixels, [W * C] each: one pass over the pixels instead of two."""
        mean, factor = (torch.tensor(v, device=device) for v in (self.mean, [1 / (s * full_range) for s in self.std]))
        return (-full_range * mean * factor).repeat(width), factor.repeat(width)


def make_preprocessing(mean: tuple[float, ...], std: tuple[float, ...], *, normalize: bool) -> Preprocessing:
    """Return the preprocessing for images of these statistics; without `normalize` it only divides by 255.

    A constant channel has a standard deviation of zero and is not divided.
    """
    if not normalize:
        return Preprocessing((0.0,) * len(mean), (1.0,) * len(mean))
    return Preprocessing(mean, tuple(s or 1.0 for s in std))


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 [N, H, W, C], in units of 0..1."""
    n, height, width, channels = images.shape
    whole = height * width * channels <= MAX_ROW
    rows = images.reshape(-1, height * width * channels if whole else width * channels)
    total, total_squared = (np.zeros(rows.shape[1]) for _ in range(2))
    for start in range(0, len(rows), EXACT_ROWS):
        values = rows[start : start + EXACT_ROWS].astype(np.float32)
        total += values.sum(axis=0)
        total_squared += np.square(values, out=values).sum(axis=0)
    total, total_squared = (sums.reshape(-1, channels).sum(axis=0) for sums in (total, total_squared))
    count = n * height * width
    mean = total / count
    std = np.sqrt(np.maximum(0.0, total_squared / count - mean**2))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


@dataclass(frozen=True)
class Copies:
    """The augmented copies that a frozen network sees of N images, in turn: `number` of each, the same in every run.

    Args:
        indices: of the images in the data set, int64 [N]; with them the random numbers of a copy are drawn.
    """

    number: int
    indices: NDArray[np.int64]

    def words(self, seed: int, epoch: int) -> tuple[int | str, ...]:
        """Return what the random numbers of an epoch's copy depend on besides the image."""
        return copy_words(seed, (epoch - 1) % self.number)


def copy_words(seed: int, copy: int) -> tuple[int | str, ...]:
    """Return what the random numbers of the augmented copy of this number, from 0, depend on besides the image."""
    return seed, "view", copy


@dataclass(frozen=True)
class ResidentImages:
    """N images and their labels on the compute device, at these rows, int64 [N], of `images`, uint8 [M, H, W, C].

    On a CPU `images` is the data set's own array, not to be changed.

    Args:
        copies: the augmented copies to train on; None augments each image differently in each epoch.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    copies: Copies | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def select(self, numbers: Tensor | None = None) -> Tensor:
        """Return a copy of the images with these numbers, or of all, uint8 [B, H, W, C]."""
        return self.images.index_select(0, self.rows if numbers is None else self.rows[numbers])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image as the network takes it: (C, H, W)."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class ResidentFeatures:
    """Features of N images on the compute device, at these rows, int64 [N], of each of `values`, float32 [M, ...].

    The frozen part of a network computed them, each of `values` from another augmented copy of the images. On a CPU
    they are not to be changed: a cache file is mapped.
    """

    values: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return tuple(self.values[0].shape[1:])


Resident = ResidentImages | ResidentFeatures


def make_resident(images: ImageSet, indices: NDArray[np.int64], device: torch.device) -> ResidentImages:
    """Return these images of a data set on the device, in this order; on a CPU nothing is copied."""
    labels = torch.from_numpy(images.labels[indices]).to(device)
    if device.type != "cpu":
        pixels = torch.from_numpy(np.ascontiguousarray(images.images[indices])).to(device)
        return ResidentImages(pixels, labels, torch.arange(len(indices), device=device))
    return ResidentImages(_shared(images.images), labels, torch.from_numpy(np.ascontiguousarray(indices)))


def make_resident_features(
    values: Sequence[NDArray[np.float32]], rows: NDArray[np.int64], labels: NDArray[np.int64], device: torch.device
) -> ResidentFeatures:
    """Return the features at these rows, [N], of each of `values`, [M, ...], and their labels, [N], on the device."""
    on_device = torch.from_numpy(labels).to(device)
    if device.type != "cpu":
        moved = tuple(torch.from_numpy(np.ascontiguousarray(each[rows])).to(device) for each in values)
        return ResidentFeatures(moved, on_device, torch.arange(len(rows), device=device))
    return ResidentFeatures(tuple(map(_shared, values)), on_device, torch.from_numpy(np.ascontiguousarray(rows)))


def _shared(array: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    """Return a tensor with the memory of an array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about arrays that are read-only; nobody writes to it
        return torch.from_numpy(array)


def input_bytes(data: Resident) -> int:
    """Return the size of one image as the network takes it, float32."""
    return 4 * math.prod(data.input_shape)


def chunk_images(image_bytes: int, batch_size: int) -> int:
    """Return how many images of this size, float32, are prepared at once: whole batches, at least one."""
    return max(1, CHUNK_BYTES // (image_bytes * batch_size)) * batch_size


def num_batches(num_images: int, batch_size: int) -> int:
    """Return the batches of an epoch; a last batch of one image joins the one before it, as batch norm needs two."""
    return max(1, num_images // batch_size + (num_images % batch_size > 1))


def largest_batches(num_images: int, batch_size: int) -> tuple[int, int]:
    """Return the images in the first batch of an epoch and in the last one, which may be smaller or larger."""
    before_last = (num_batches(num_images, batch_size) - 1) * batch_size
    return batch_size if before_last else num_images, num_images - before_last


def num_micro_batches(num_images: int, batch_size: int, micro_batches: int, *, least: int = 1) -> int:
    """Return into how many micro-batches, equal up to one image, a batch of `num_images` is split.

    Args:
        batch_size, micro_batches: as configured; together they give the size of a micro-batch.
        least: images in the smallest one, where the batch has as many: 2 if the network normalizes over a batch.
    """
    if micro_batches == 1:
        return 1
    return max(1, min(math.ceil(num_images / math.ceil(batch_size / micro_batches)), num_images // least))


def augmented_input(
    images_of: Callable[[NDArray[np.int64]], Tensor],
    numbers: NDArray[np.int64],
    preprocessing: Preprocessing,
    config: TrainConfig,
    *,
    n: int,
    epoch: int,
) -> tuple[Tensor, Mixture | None]:
    """Return the network's input in an epoch, float32 [B, C, H, W], and the mixture if the configuration has mixup.

    `images_of` returns some of the n training images by their numbers, int64 [B], as uint8 [B, H, W, C].
    """
    names = [name for name in config.augment if name != MIXUP]

    def augmented(chosen: NDArray[np.int64]) -> Tensor:
        words = (config.seed, "augment", epoch)
        return preprocessing.apply_augmented(images_of(chosen), names, torch.from_numpy(chosen), *words)

    x = augmented(numbers)
    if MIXUP not in config.augment:
        return x, None
    mixture = mixup_of(numbers, n, config.seed, MIXUP, epoch)
    shares = torch.from_numpy(mixture.shares).to(x.device)[:, None, None, None]
    mixed = torch.lerp(augmented(mixture.partners), x, shares)
    return mixed.contiguous(memory_format=torch.channels_last), mixture


def training_batches(
    data: Resident,
    preprocessing: Preprocessing,
    config: TrainConfig,
    *,
    epoch: int,
    num_classes: int | None = None,
    first_step: int = 0,
    ahead: bool = False,
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Yield (input [B, C, H, W], labels [B], image numbers [B]) in the random order of this epoch.

    Features are yielded unchanged: each epoch takes the next augmented copy, which was made before. With mixup the
    labels are the share of each class instead, float32 [B, K].

    Args:
        num_classes: K, needed for mixup.
        first_step: batches to leave out at the beginning; the others are the same as without it.
        ahead: prepare the next images in another thread; worth it if a processor is idle.
    """
    batch_size = config.batch_size
    order = permutation(len(data), config.seed, "order", epoch)
    chunk = chunk_images(input_bytes(data), batch_size) // batch_size
    batches = num_batches(len(data), batch_size)
    edges = [*range(0, batches * batch_size, batch_size), len(data)]

    def prepare(start: int) -> tuple[int, NDArray[np.int64], Tensor, Tensor]:
        numbers = order[edges[start] : edges[min(start + chunk, batches)]]
        indices = torch.from_numpy(numbers).to(data.labels.device)
        labels = data.labels[indices]
        if isinstance(data, ResidentFeatures):
            x = data.values[(epoch - 1) % len(data.values)].index_select(0, data.rows[indices])
        elif config.augment and data.copies is not None:
            keys, words = torch.from_numpy(data.copies.indices[numbers]), data.copies.words(config.seed, epoch)
            x = preprocessing.apply_augmented(data.select(indices), config.augment, keys, *words)
        elif config.augment:
            x, mixture = augmented_input(
                lambda chosen: data.select(torch.from_numpy(chosen).to(data.labels.device)),
                numbers,
                preprocessing,
                config,
                n=len(data),
                epoch=epoch,
            )
            if mixture is not None:
                assert num_classes is not None
                labels = _mixed_labels(data.labels, labels, mixture, num_classes)
        else:
            x = preprocessing.apply(data.images, data.rows[indices])
        return start, numbers, x, labels

    starts = range(first_step // chunk * chunk, batches, chunk)
    for start, numbers, x, labels in map_ahead(prepare, starts, threads=1, ahead=1) if ahead else map(prepare, starts):
        for batch in range(max(start, first_step), min(start + chunk, batches)):
            images = slice(edges[batch] - edges[start], edges[batch + 1] - edges[start])
            yield x[images], labels[images], numbers[images]


def _mixed_labels(all_labels: Tensor, own: Tensor, mixture: Mixture, num_classes: int) -> Tensor:
    """Return the share of each class, float32 [B, K]."""
    partners = all_labels[torch.from_numpy(mixture.partners).to(own.device)]
    shares = torch.from_numpy(mixture.shares).to(own.device)[:, None]
    one_hot = torch.eye(num_classes, device=own.device)
    return shares * one_hot[own] + (1 - shares) * one_hot[partners]
