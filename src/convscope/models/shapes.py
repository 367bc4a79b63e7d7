"""Networks with the shapes of their weights and no numbers in them, for counting parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let the networks that are built in here have weights with a shape and no content, which takes milliseconds."""
    with _WeightsWithoutContent(), torch.no_grad():
        yield


class _WeightsWithoutContent(TorchFunctionMode):
    """Puts new uninitialized tensors on the meta device and leaves out filling them.

    Under `torch.device("meta")` everything would go there, and some networks need to compute with small tables; and
    random numbers for the meta device are drawn by slow code.
    """

    FILLING = frozenset(
        ("normal_", "uniform_", "fill_", "zero_", "erfinv_", "mul_", "add_", "sub_", "div_", "clamp_", "copy_")
    )

    def __torch_function__(  # type: ignore[no-untyped-def]
        self,
        func,  # noqa: ANN001
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **(kwargs | {"device": "meta"}))
        target = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in self.FILLING and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)
