"""torchvision and timm, imported without torch's compiler: two seconds and 160 MiB, which nothing here needs.

torchvision imports it to ask one question, whether it supports a device, in operators of object detection; timm to mark
a few functions as not to be compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_ASKED = "torch._dynamo.utils"


@cache
def load_torchvision() -> ModuleType:
    """Return torchvision.models."""
    with _without_compiler():
        return import_module("torchvision.models")


@cache
def load_timm() -> ModuleType:
    """Return timm, which imports torchvision."""
    load_torchvision()
    with _marking_without_compiler():
        return import_module("timm")


@contextmanager
def constant_padding() -> Iterator[None]:
    """Let padding that timm computes from the size of a picture be a constant of the graph that is traced meanwhile.

    ONNX Runtime then pads within the convolution, where it would leave its layout of the data and come back:
    EfficientNet-Lite0 takes 14 ms for a photo on one core with AVX2 instead of 18, and gives the same bits.
    """
    padding = sys.modules.get("timm.layers.padding")
    if padding is None:
        yield
        return
    same = padding.get_same_padding  # of TensorFlow: as much as brings the output to input / stride, rounded up
    padding.get_same_padding = lambda size, *rest: same(int(size), *rest)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        padding.get_same_padding = same  # type: ignore[attr-defined]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let the module that is asked be one that passes the question on when it is put."""
    if _ASKED in sys.modules:
        yield
        return
    stand_in = ModuleType(_ASKED)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_ASKED] = stand_in
    try:
        yield
    finally:
        del sys.modules[_ASKED]


@contextmanager
def _marking_without_compiler() -> Iterator[None]:
    """Let functions be marked as not to be compiled in the way that the compiler itself marks them."""
    disable = torch.compiler.disable

    def mark(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:  # noqa: ANN401
        if fn is None:
            return partial(mark, recursive=recursive, reason=reason)
        fn._torchdynamo_disable = True
        return fn

    torch.compiler.disable = mark
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module(_ASKED).is_compile_supported(device_type))
