"""What the frozen part of a network makes of every picture: computed once, kept, and used by every epoch and head."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope.data.batches import Preprocessing
from convscope.evaluation.forward import Forward
from convscope.progress import OnProgress, Progress

BATCH_SIZE = 32
"""Pictures that go through the frozen part at once; larger batches are not faster on a CPU and take more memory."""


def extract_features(
    forward: Forward,
    pictures: NDArray[np.uint8],
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    *,
    batch_size: int = BATCH_SIZE,
    augment: Sequence[str] = (),
    words: tuple[int | str, ...] = (),
    cached: Path | None,
    on_progress: OnProgress,
    stop_requested: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32] | None:
    """Return the frozen part's output for pictures[indices], float32 [N, ...] in the order of `indices`.

    Args:
        pictures: uint8 [M, H, W, C].
        batch_size: so many go through the frozen part at a time.
        augment, words: random changes to make, keyed by (words, picture index).
        cached: file to read the result from, or to keep it in; must be named after everything the result depends on
            (see `features_key`). A file that cannot be written is done without.
        stop_requested: asked after every batch; True gives up and returns None.
    """
    if cached is not None and cached.exists():
        return np.asarray(np.load(cached, mmap_mode="r", allow_pickle=False))
    out: NDArray[np.float32] | None = None
    for start in range(0, len(indices), batch_size):
        batch = torch.from_numpy(indices[start : start + batch_size])
        chosen = torch.from_numpy(np.ascontiguousarray(pictures[batch.numpy()]))
        x = preprocessing.apply_augmented(chosen, augment, batch, *words) if augment else preprocessing.apply(chosen)
        values = forward.run(x.contiguous().numpy())
        if out is None:
            out = np.empty((len(indices), *values.shape[1:]), np.float32)
        out[start : start + len(values)] = values
        on_progress(Progress("computing features", start + len(values), len(indices), "images"))
        if stop_requested():
            return None
    assert out is not None  # a data set has at least one picture
    if cached is not None:
        _keep(cached, out)
    return out


def features_key(module: nn.Module, engine: str, input_shape: tuple[int, ...], *parts: object) -> str:
    """Return a name for what an engine makes of pictures: it changes with weights, layers, engine and all `parts`."""
    digest = hashlib.sha256(repr((engine, input_shape, str(module), torch.__version__, *parts)).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)  # as it is: a copy of VGG's largest is 411 MB
    return digest.hexdigest()[:32]


def features_name(key: str, indices: NDArray[np.int64], *parts: object) -> str:
    """Return a file name for the features of these pictures, made in the way that `parts` tell."""
    return hashlib.sha256(indices.tobytes() + repr((key, *parts)).encode()).hexdigest()[:32]


def _keep(path: Path, values: NDArray[np.float32]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        temporary.replace(path)
    except OSError:  # the cache saves time and nothing else: a full disk must not end a run that needs none of it
        with suppress(OSError):
            temporary.unlink()
