"""Named tensors on disk. Files of others are opened by the safetensors library, or by torch without running code in
them; our own safetensors files are written as a stream and read into the memory of a network, with no second copy.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from convscope.errors import WeightsError
from convscope.storage.files import Stream, open_regular

PICKLES = (".pth", ".pt")

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorFile:
    """An opened file of named tensors; `read` returns them."""

    path: Path
    shapes: Shapes
    read: Callable[[], dict[str, Tensor]]


def open_tensors(path: Path) -> TensorFile:
    """Open a .safetensors file, or a .pth or .pt file; nothing in it is executed.

    Raises:
        WeightsError: the file is missing, damaged, or holds something other than tensors.
    """
    if path.suffix in PICKLES:
        tensors = _load_pickle(path)
        return TensorFile(path, {name: tuple(value.shape) for name, value in tensors.items()}, lambda: tensors)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights are read from .safetensors, .pth and .pt files; rename it if it is one")
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def read() -> dict[str, Tensor]:
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    return TensorFile(path, shapes, read)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open_regular(path), safe_open(path, framework="pt") as file:  # the library would wait at a FIFO
            yield file
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a hostile file makes the restricted reader raise has no common class
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightsError(f"{path} holds something other than tensors by name; save the network's state_dict()")
    return dict(content)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, FileNotFoundError):
        return WeightsError(f"there is no file {path}; --weights takes a .safetensors file")
    reason = " ".join(str(error).split())[:200]
    return WeightsError(
        f"{path} is not a file of weights that can be trusted ({reason}); nothing in it was used. Download it again, "
        "or convert it to safetensors where it comes from"
    )


def read_finite(file: TensorFile) -> dict[str, Tensor]:
    """Return the tensors; raises WeightsError if one holds NaN or infinity."""
    tensors = file.read()
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{file.path}: {name} holds numbers that are not finite (NaN or infinity); not used")
    return tensors


def rename_tensors(file: TensorFile, rename: Callable[[str], str | None]) -> TensorFile:
    """Return the file with its tensors renamed, without those that get None."""
    names = {old: new for old in file.shapes if (new := rename(old)) is not None}
    return TensorFile(
        file.path,
        {new: file.shapes[old] for old, new in names.items()},
        lambda: {names[old]: value for old, value in file.read().items() if old in names},
    )


def stream_tensors(tensors: Mapping[str, Tensor]) -> Stream:
    """Return the content of a safetensors file, piece by piece; a device hands over one tensor at a time."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # which keeps them aligned
    header: dict[str, Any] = {}
    start = 0
    for name in ordered:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield struct.pack("<Q", len(text))
        yield text
        for name in ordered:
            yield _memory(tensors[name].detach().cpu().contiguous())

    return Stream(8 + len(text) + start, chunks)


@torch.no_grad()
def read_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a safetensors file into tensors of the same names, shapes and types, in any memory order.

    Raises:
        ValueError: the file is damaged, or holds other tensors than these.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        for name, start in _matching_entries(file, path, tensors).items():
            tensor = tensors[name]
            in_place = tensor.device.type == "cpu" and tensor.is_contiguous()
            values = tensor.detach() if in_place else torch.empty(tensor.shape, dtype=tensor.dtype)
            file.seek(start)
            if values.numel() and file.readinto(_memory(values)) != values.nbytes:
                raise ValueError(f"{path} ends within {name}")
            if not in_place:
                tensor.copy_(values)


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise, as `read_into`, for a file that does not hold tensors of these names, shapes and types."""
    with open_regular(path) as file:
        _matching_entries(file, path, tensors)


def _matching_entries(file: BufferedReader, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return by name where in the file the numbers of these tensors begin."""
    entries = _read_entries(file, path)
    different = sorted(set(entries) ^ set(tensors))
    if different:
        raise ValueError(f"{path} and the network differ in {', '.join(different[:3])}")
    for name, (found, _) in entries.items():
        expected = f"{DTYPE_NAMES[tensors[name].dtype]} {list(tensors[name].shape)}"
        if found != expected:
            raise ValueError(f"{path} holds {name} as {found}, expected {expected}")
    return {name: start for name, (_, start) in entries.items()}


def _read_entries(file: BufferedReader, path: Path) -> dict[str, tuple[str, int]]:
    """Return by name the type and shape of a tensor, as "F32 [2, 3]", and where in the file its numbers begin."""
    try:
        with safe_open(path, framework="pt"):  # which refuses numbers that overlap, leave gaps or lie outside
            pass
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: (f"{entry['dtype']} {list(entry['shape'])}", 8 + length + int(entry["data_offsets"][0]))
            for name, entry in header.items()
        }
    except (SafetensorError, ValueError, struct.error, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def _memory(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU as bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(bytearray())
