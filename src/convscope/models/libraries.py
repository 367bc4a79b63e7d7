"""torchvision and timm, imported without torch's compiler.

torchvision asks the compiler one question, whether it supports a device, in operators of object detection, and imports
it for that: two seconds and 160 MiB, which nothing here needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType

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
    return import_module("timm")


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


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module(_ASKED).is_compile_supported(device_type))
