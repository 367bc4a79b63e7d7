"""Features: the output of the frozen part for every image, computed once, cached, and used by each epoch and head."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope.data.batches import Preprocessing
from convscope.data.decode.cache import checksums
from convscope.evaluation.predict import FEATURES_BATCH, Forward
from convscope.progress import OnProgress, Progress
from convscope.storage.cache import cached_file, save_cached
from convscope.storage.files import Stream, array_content

SEAL_BYTES = hashlib.sha256().digest_size


def extract_features(
    forward: Forward,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    *,
    batch_size: int = FEATURES_BATCH,
    augment: Sequence[str] = (),
    words: tuple[int | str, ...] = (),
    cache_key: str | None,
    on_progress: OnProgress,
) -> NDArray[np.float32]:
    """Return the output of the frozen part for images[indices], float32 [N, ...] in the order of `indices`.

    It is mapped from the cache, read-only, where there is one.

    Args:
        images: uint8 [M, H, W, C].
        augment, words: augmentations, with random numbers that depend on `words` and the image index.
        cache_key: a hash of all that the result depends on (see `features_cache_key`); None uses no cache.
    """
    out = _load(cache_key, len(indices)) if cache_key is not None else None
    if out is not None:
        return out
    for start in range(0, len(indices), batch_size):
        batch = torch.from_numpy(indices[start : start + batch_size])
        chosen = torch.from_numpy(np.ascontiguousarray(images[batch.numpy()]))
        x = preprocessing.apply_augmented(chosen, augment, batch, *words) if augment else preprocessing.apply(chosen)
        values = forward.run(x.contiguous().numpy())
        if out is None:
            out = np.empty((len(indices), *values.shape[1:]), np.float32)
        out[start : start + len(values)] = values
        on_progress(Progress("computing features", start + len(values), len(indices), "images"))
    assert out is not None  # a data set has at least one image
    if cache_key is not None:
        content, seal = array_content(out), _seal_of(out)
        save_cached("features", cache_key, Stream(content.num_bytes + len(seal), lambda: (*content.chunks(), seal)))
        mapped = _load(cache_key, len(indices))  # which gives its memory back
        return out if mapped is None else mapped
    return out


def features_key(module: nn.Module, engine: str, input_shape: tuple[int, ...], *parts: object) -> str:
    """Return a hash of the frozen part's weights and layers, the engine that runs it, and `parts`."""
    digest = hashlib.sha256(repr((engine, input_shape, str(module), torch.__version__, *parts)).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)  # not copied: VGG's largest is 411 MB
    return digest.hexdigest()[:32]


def features_cache_key(module_key: str, indices: NDArray[np.int64], *parts: object) -> str:
    """Return the cache key of these images' features, from `features_key` and the augmentation in `parts`."""
    return hashlib.sha256(indices.tobytes() + repr((module_key, *parts)).encode()).hexdigest()[:32]


def _load(key: str, num_images: int) -> NDArray[np.float32] | None:
    """Return cached features, memory-mapped; None if there are none or the file is damaged."""
    path = cached_file("features", key)
    if path is None:
        return None
    try:
        values = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        with path.open("rb") as file:
            file.seek(-SEAL_BYTES, os.SEEK_END)
            seal = file.read()
    except (OSError, ValueError):  # computed again, and the file is replaced
        return None
    as_written = values.dtype == np.float32 and len(values) == num_images and seal == _seal_of(values)
    return values if as_written else None


def _seal_of(values: NDArray[np.float32]) -> bytes:
    """Return what stands behind the values in their file, and tells whether the disk kept them."""
    sums = checksums(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    return hashlib.sha256(repr(sums).encode()).digest()
