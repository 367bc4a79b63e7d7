"""Networks on the meta device: weights with a shape and without numbers, which take no memory and no time to fill."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convscope.torch_internals import without_compiler


@contextmanager
def shapes_only() -> Iterator[None]:
    """Put the weights of networks that are built inside the `with` block on the meta device, and fill none of them."""
    with without_compiler(), _WeightsOnMeta(), torch.no_grad():
        yield


class _WeightsOnMeta(TorchFunctionMode):
    """Puts new uninitialized tensors on the meta device and skips the operations that fill them.

    `torch.device("meta")` would put all tensors there, and some networks compute with small tables while they are
    built; and it fills weights with random numbers by slow Python code.
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
