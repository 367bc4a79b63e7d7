"""Safetensors files written and read one tensor at a time: beside the tensors themselves hardly any memory is taken.

The library's own functions hold a copy of everything (`save`, `load`), or let the pages of the whole file count as this
process's memory while they read (`load_file`), which matters where a run has a limit.

Source: the format is described at https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from convscope.runs import Stream

_NAMES = {
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
MAX_HEADER_BYTES = 100_000_000
"""As in the library: a longer header is taken for damage."""


def stream_tensors(tensors: Mapping[str, Tensor]) -> Stream:
    """Return the content of a safetensors file, piece by piece; tensors on a device come over one at a time."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # which keeps them aligned
    header: dict[str, Any] = {}
    start = 0
    for name in ordered:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
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
    """Put what a safetensors file holds into tensors of the same names, shapes and types, whatever their memory order.

    Raises:
        ValueError: the file is damaged, or holds something else than these tensors.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header, begin = _read_header(file, path)
        different = sorted(set(header) ^ set(tensors))
        if different:
            raise ValueError(f"{path} and the network differ in {', '.join(different[:3])}")
        for name, entry in header.items():
            tensor = tensors[name]
            if entry["dtype"] != _NAMES[tensor.dtype] or entry["shape"] != list(tensor.shape):
                expected = f"{_NAMES[tensor.dtype]} {list(tensor.shape)}"
                raise ValueError(f"{path} holds {name} as {entry['dtype']} {entry['shape']}, expected {expected}")
            in_place = tensor.device.type == "cpu" and tensor.is_contiguous()
            values = tensor.detach() if in_place else torch.empty(tensor.shape, dtype=tensor.dtype)
            file.seek(begin + entry["data_offsets"][0])
            if values.numel() and file.readinto(_memory(values)) != values.nbytes:
                raise ValueError(f"{path} ends within {name}")
            if not in_place:
                tensor.copy_(values)


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """Return the entries by name and where the numbers begin."""
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        sizes = {name: math.prod(entry["shape"]) for name, entry in header.items()}
        assert all(size >= 0 for size in sizes.values())
    except (ValueError, struct.error, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} is no safetensors file ({error})") from error
    return header, 8 + length


def _memory(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU as bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(bytearray())
