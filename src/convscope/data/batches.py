"""Batches for the network from one resident uint8 tensor.

Several batches are gathered, augmented and normalized in one go: on small pictures the cost of a batch is the number
of calls, not the pixels. What a picture becomes depends on (seed, epoch, picture) alone, so an epoch can be entered
at any step and gives the same batches.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.data.augment import AUGMENTATIONS, MIXUP, mixup_of
from convscope.data.image_set import ImageSet
from convscope.randomness import permutation, uniform

_Result = TypeVar("_Result")

CHUNK_BYTES = 8 * 2**20
"""Size of the float32 pictures that are prepared in one go; about a CPU's last-level cache."""
LARGE_PICTURE = 2**15
"""Values of a picture from which on it is worth a few calls of its own."""
EXACT_ROWS = 256
"""So many squares of bytes add up to less than 2**24: their sum is exact in float32, whatever the order."""
MAX_ROW = 4096
"""Pictures of at most so many values are summed up as one row each; of larger ones each row of pixels is one."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a uint8 picture before the network sees it: (pixel / 255 - mean) / std for each channel.

    Args:
        mean, std: C numbers in units of the full range 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pictures: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the network's input, float32 [B, C, H, W], from uint8 [B, H, W, C] or from these rows of it."""
        if pictures.device.type == "cpu" and pictures.shape[1:].numel() >= LARGE_PICTURE:
            return self._apply_one_by_one(pictures, range(len(pictures)) if rows is None else rows.tolist())
        chosen = pictures if rows is None else pictures.index_select(0, rows)  # seven times quicker than [rows]
        x = chosen.permute(0, 3, 1, 2).float()
        return self._normalize_in_place(x, full_range=255.0)

    def _apply_one_by_one(self, pictures: Tensor, rows: Sequence[int]) -> Tensor:
        """Do as `apply`, with each picture read once and normalized while it is in the processor's cache."""
        height, width, channels = pictures.shape[1:]
        offset, factor = self._affine(255.0, width, pictures.device)
        source, out = pictures.flatten(2), torch.empty(len(rows), height, width * channels)
        for x, row in zip(out.unbind(), rows, strict=True):
            torch.addcmul(offset, x.copy_(source[row]), factor, out=x)
        return out.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def apply_augmented(self, pictures: Tensor, names: Sequence[str], indices: Tensor, *words: int | str) -> Tensor:
        """Return the input with the named augmentations, random by (words, picture index [B])."""
        x = pictures.permute(0, 3, 1, 2).float().div_(255)
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
        rows = x.permute(0, 2, 3, 1).view(-1, width * len(self.mean))  # over whole rows: three numbers are no vector
        offset, factor = self._affine(full_range, width, x.device)
        torch.addcmul(offset, rows, factor, out=rows)
        return x

    def _affine(self, full_range: float, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return offset and factor for a row of pixels, [W * C] each: one pass over the pixels instead of two."""
        mean, factor = (torch.tensor(v, device=device) for v in (self.mean, [1 / (s * full_range) for s in self.std]))
        return (-full_range * mean * factor).repeat(width), factor.repeat(width)


def make_preprocessing(mean: tuple[float, ...], std: tuple[float, ...], *, normalize: bool) -> Preprocessing:
    """Return the preprocessing for pictures of these statistics; without `normalize` only the division by 255.

    A channel that never changes has a deviation of zero and is left undivided.
    """
    if not normalize:
        return Preprocessing((0.0,) * len(mean), (1.0,) * len(mean))
    return Preprocessing(mean, tuple(s or 1.0 for s in std))


def channel_statistics(pictures: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 [N, H, W, C], in units of 0..1."""
    n, height, width, channels = pictures.shape
    whole = height * width * channels <= MAX_ROW
    rows = pictures.reshape(-1, height * width * channels if whole else width * channels)
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
class ResidentPictures:
    """N pictures and their labels on the compute device.

    Args:
        pictures: uint8 [M, H, W, C], these among others; on a CPU those of the data set itself, and not to be changed.
        labels: int64 [N].
        rows: where each of the N pictures is, int64 [N].
    """

    pictures: Tensor
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def select(self, numbers: Tensor | None = None) -> Tensor:
        """Return a copy of those of the N pictures with these numbers, or of all, uint8 [B, H, W, C]."""
        return self.pictures.index_select(0, self.rows if numbers is None else self.rows[numbers])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one picture as the network takes it: (C, H, W)."""
        height, width, channels = self.pictures.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class ResidentFeatures:
    """What the frozen part of a network made of N pictures, in V random views: float32 [V, N, ...], and int64 [N]."""

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one picture's features."""
        return tuple(self.values.shape[2:])


Resident = ResidentPictures | ResidentFeatures


def make_resident(images: ImageSet, indices: NDArray[np.int64], device: torch.device) -> ResidentPictures:
    """Bring these pictures of a data set to the device, in this order; on a CPU they stay where they are."""
    labels = torch.from_numpy(images.labels[indices]).to(device)
    if device.type != "cpu":
        pictures = torch.from_numpy(np.ascontiguousarray(images.images[indices])).to(device)
        return ResidentPictures(pictures, labels, torch.arange(len(indices), device=device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of arrays that are not to be changed; nobody does
        pictures = torch.from_numpy(images.images)
    return ResidentPictures(pictures, labels, torch.from_numpy(np.ascontiguousarray(indices)))


def input_bytes(data: Resident) -> int:
    """Return the size of one picture as the network takes it, float32."""
    return 4 * math.prod(data.input_shape)


def chunk_pictures(picture_bytes: int, batch_size: int) -> int:
    """Return how many pictures are prepared in one go: whole batches, one at least.

    Args:
        picture_bytes: of one as the network takes it, float32.
    """
    return max(1, CHUNK_BYTES // (picture_bytes * batch_size)) * batch_size


@dataclass(frozen=True)
class Mixture:
    """With which pictures those of a batch are mixed: their numbers, int64 [B], and the own share of each, [B]."""

    partners: NDArray[np.int64]
    shares: NDArray[np.float32]


def augmented_input(
    pictures_of: Callable[[NDArray[np.int64]], Tensor],
    numbers: NDArray[np.int64],
    preprocessing: Preprocessing,
    augment: Sequence[str],
    *,
    n: int,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Mixture | None]:
    """Return the network's input in an epoch, float32 [B, C, H, W], and what was mixed where mixup is asked for.

    Args:
        pictures_of: returns training pictures by number, uint8 [B, H, W, C].
        n: training pictures in all.
    """
    alone = [name for name in augment if name != MIXUP]

    def view(chosen: NDArray[np.int64]) -> Tensor:
        words = (seed, "augment", epoch)
        return preprocessing.apply_augmented(pictures_of(chosen), alone, torch.from_numpy(chosen), *words)

    x = view(numbers)
    if MIXUP not in augment:
        return x, None
    mixture = Mixture(*mixup_of(numbers, n, seed, MIXUP, epoch))
    shares = torch.from_numpy(mixture.shares).to(x.device)[:, None, None, None]
    mixed = torch.lerp(view(mixture.partners), x, shares)
    return mixed.contiguous(memory_format=torch.channels_last), mixture


def training_batches(
    data: Resident,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Sequence[str] = (),
    num_classes: int | None = None,
    first_step: int = 0,
    ahead: bool = False,
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Yield (input [B, C, H, W], labels [B], picture numbers [B]) in the random order of this epoch.

    Features are given as they are, those of another view in each epoch; what was done to the pictures is in them.
    With mixup the labels are the share of each class instead, float32 [B, K].

    Args:
        num_classes: K, needed for mixup.
        first_step: batches to leave out at the beginning; the rest is the same as without.
        ahead: make the next pictures in another thread meanwhile; worth it where a processor is idle.
    """
    order = permutation(len(data), seed, "order", epoch)
    chunk = chunk_pictures(input_bytes(data), batch_size)

    def prepare(start: int) -> tuple[int, NDArray[np.int64], Tensor, Tensor]:
        numbers = order[start : start + chunk]
        indices = torch.from_numpy(numbers).to(data.labels.device)
        labels = data.labels[indices]
        if isinstance(data, ResidentFeatures):
            x = data.values[(epoch - 1) % len(data.values), indices]
        elif augment:
            x, mixture = augmented_input(
                lambda chosen: data.select(torch.from_numpy(chosen).to(data.labels.device)),
                numbers,
                preprocessing,
                augment,
                n=len(data),
                seed=seed,
                epoch=epoch,
            )
            if mixture is not None:
                assert num_classes is not None
                labels = _mixed_labels(data.labels, labels, mixture, num_classes)
        else:
            x = preprocessing.apply(data.pictures, data.rows[indices])
        return start, numbers, x, labels

    starts = range(first_step * batch_size // chunk * chunk, len(order), chunk)
    for start, numbers, x, labels in (_map_ahead if ahead else map)(prepare, starts):
        first = max(0, first_step * batch_size - start) // batch_size
        places = range(0, len(numbers), batch_size)
        batches = zip(torch.split(x, batch_size), torch.split(labels, batch_size), places, strict=True)
        for batch, batch_labels, at in islice(batches, first, None):
            yield batch, batch_labels, numbers[at : at + batch_size]


def _mixed_labels(all_labels: Tensor, own: Tensor, mixture: Mixture, num_classes: int) -> Tensor:
    """Return the share of each class, float32 [B, K]."""
    partners = all_labels[torch.from_numpy(mixture.partners).to(own.device)]
    shares = torch.from_numpy(mixture.shares).to(own.device)[:, None]
    one_hot = torch.eye(num_classes, device=own.device)
    return shares * one_hot[own] + (1 - shares) * one_hot[partners]


def _map_ahead(function: Callable[[int], _Result], values: Iterable[int]) -> Iterator[_Result]:
    """Yield function(value) in order; while one result is used, the next is made in another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming: Future[_Result] | None = None
        for value in values:
            made, coming = coming, pool.submit(function, value)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()
