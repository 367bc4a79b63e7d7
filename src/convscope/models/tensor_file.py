"""Files of named tensors, read without trusting them.

Of a safetensors file the header is read first, so that nothing is allocated for tensors that nobody wants. A pickle is
only ever read by torch's restricted reader, which builds tensors and calls nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from convscope.errors import WeightsError

PICKLES = (".pth", ".pt")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorFile:
    """A file of named tensors, opened.

    Args:
        shapes: by name.
        read: returns the tensors of these names.
    """

    path: Path
    shapes: Shapes
    read: Callable[[], dict[str, Tensor]]


def open_tensors(path: Path) -> TensorFile:
    """Return what a safetensors file holds, or a .pth file if the name ends so; nothing in it is executed.

    Raises:
        WeightsError: the file is missing, damaged, or holds something else than tensors.
    """
    if path.suffix in PICKLES:
        return _open_pickle(path)
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path}: weights are read from .safetensors files, or from .pth files if they are called so"
        )
    try:
        with safe_open(path, framework="pt") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return TensorFile(path, shapes, partial(_read_safetensors, path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _open_pickle(path: Path) -> TensorFile:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a hostile file makes the restricted reader raise has no common class
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightsError(f"{path} holds something else than tensors by name; save the network's state_dict()")
    tensors = dict(content)
    return TensorFile(path, {name: tuple(value.shape) for name, value in tensors.items()}, lambda: tensors)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, FileNotFoundError):
        return WeightsError(f"there is no file {path}; --weights takes a .safetensors file")
    reason = " ".join(str(error).split())[:200]
    return WeightsError(
        f"{path} is no file of weights that can be trusted ({reason}); nothing of it was used. Fetch it again, or "
        "convert it to safetensors where it comes from"
    )


def read_finite(file: TensorFile) -> dict[str, Tensor]:
    """Return the tensors.

    Raises:
        WeightsError: one holds NaN or infinity.
    """
    tensors = file.read()
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{file.path}: {name} holds numbers that are not finite (NaN or infinity); not used")
    return tensors


def rename_tensors(file: TensorFile, rename: Callable[[str], str | None]) -> TensorFile:
    """Return the file with other names for its tensors, without those that get None."""
    names = {old: new for old in file.shapes if (new := rename(old)) is not None}
    return TensorFile(
        file.path,
        {new: file.shapes[old] for old, new in names.items()},
        lambda: {names[old]: value for old, value in file.read().items() if old in names},
    )
