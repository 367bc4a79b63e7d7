"""Safetensors written as a stream and read in place, checked against the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from convscope.storage.files import write_bytes
from convscope.storage.tensors import read_into, stream_tensors


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "z.weight": torch.randn(6, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        "a.bias": torch.randn(7),
        "steps": torch.tensor(12345678901),
        "half": torch.randn(3, 3).to(torch.float16),
        "brain": torch.randn(5).to(torch.bfloat16),
        "double": torch.randn(2, dtype=torch.float64),
        "mask": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 4),
        "slice": torch.randn(8, 8)[2:5, 1:3],
    }


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    expected = tensors()
    stream = stream_tensors(expected)
    write_bytes(tmp_path / "a.safetensors", stream)
    assert (tmp_path / "a.safetensors").stat().st_size == stream.num_bytes
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_we_read_what_the_library_writes_in_place_and_in_any_memory_order(tmp_path: Path) -> None:
    expected = tensors()
    save_file({name: value.contiguous() for name, value in expected.items()}, tmp_path / "a.safetensors")
    found = {name: torch.zeros_like(value) for name, value in expected.items()}
    strides = {name: value.stride() for name, value in found.items()}
    read_into(tmp_path / "a.safetensors", found)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].stride() == strides[name]


def test_row_major_tensors_are_written_from_their_own_memory() -> None:
    weight = torch.randn(1000, 10)
    (*_, last) = stream_tensors({"weight": weight}).chunks()
    assert np.frombuffer(last, np.uint8).ctypes.data == weight.data_ptr()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 20, "not a safetensors file"),
        (b"\x02" + b"\0" * 7 + b"{}", "differ in weight"),
        (b"\x02" + b"\0" * 7 + b"[]", "not a safetensors file"),
        (b"\x0f" + b"\0" * 7 + b'{"weight": {}}  ', "not a safetensors file"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_into(tmp_path / "a.safetensors", {"weight": torch.zeros(3)})


def test_other_shapes_types_and_a_cut_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.arange(6.0).reshape(2, 3)}, path)
    for other in (torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"holds weight as F32 \[2, 3\], expected"):
            read_into(path, {"weight": other})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_into(path, {"weight": torch.zeros(2, 3)})
