"""Mixed precision on the meta device: the casts of torch.autocast, which does not support that device."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

REDUCED = frozenset(
    (
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.conv_transpose3d,
        F.linear,
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        F.scaled_dot_product_attention,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.__rmatmul__,
        Tensor.mm,
        Tensor.bmm,
    )
)
"""Operations that run in the 16-bit format on a CPU."""
FULL = frozenset((F.cross_entropy, F.nll_loss, F.mse_loss, F.smooth_l1_loss, F.binary_cross_entropy_with_logits))
"""Operations that run in float32."""
WIDEST = frozenset((torch.cat, torch.stack, torch.concat, torch.concatenate))
"""Operations that run in the widest format among their operands."""


class Autocast(TorchFunctionMode):
    """Casts the operands of the operations inside it as `torch.autocast` does on a CPU.

    Trainable weights are cast once per forward pass; their casts are kept until it ends.

    Source: https://docs.pytorch.org/docs/stable/amp.html, "Autocast op reference"
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._casts: dict[int, Tensor] | None = {}

    def __torch_function__(  # type: ignore[no-untyped-def]
        self,
        func,  # noqa: ANN001
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call the function with cast operands."""
        kwargs = kwargs or {}
        if func in REDUCED:
            dtype = self.dtype
        elif func in FULL or (func in WIDEST and any(x.dtype == torch.float32 for x in _tensors(args))):
            dtype = torch.float32
        else:
            return func(*args, **kwargs)
        cast = [self._cast(value, dtype) for value in args]
        return func(*cast, **{name: self._cast(value, dtype) for name, value in kwargs.items()})

    def forget(self) -> None:
        """Drop the casts of weights and keep no new ones: the forward pass has ended."""
        self._casts = None

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
        if isinstance(value, tuple | list) and any(isinstance(x, Tensor) for x in value):
            return [self._cast(x, dtype) for x in value]
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if self._casts is None or not (value.is_leaf and value.requires_grad and torch.is_grad_enabled()):
            return value.to(dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(dtype)
        return self._casts[id(value)]


def _tensors(values: Any) -> list[Tensor]:  # noqa: ANN401
    found = []
    for value in values:
        found += [value] if isinstance(value, Tensor) else _tensors(value) if isinstance(value, tuple | list) else []
    return found
