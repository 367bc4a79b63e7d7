"""The work of a step, operation by operation, and the time that a machine takes for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Work:
    """What one operation does.

    Args:
        flops: floating-point operations of convolutions and matrix products; 0 for all else.
        num_bytes: read and written, each tensor once; 0 for what only looks at a tensor in another way.
        reduced: whether it computes in 16 bits.
    """

    flops: int
    num_bytes: int
    reduced: bool


@dataclass(frozen=True)
class Speed:
    """How fast a machine is, in steps of training.

    Args:
        flops_per_second: of convolutions and matrix products in float32; `reduced_flops_per_second`: in 16 bits.
        bytes_per_second: read and written.
        seconds_per_operation: what any operation takes before its work begins, autograd's share included.
    """

    flops_per_second: float
    reduced_flops_per_second: float
    bytes_per_second: float
    seconds_per_operation: float

    def seconds(self, work: Iterable[Work]) -> float:
        """Return the time for these operations: each is held up by its arithmetic or by memory, whichever is slower."""
        total = 0.0
        for one in work:
            rate = self.reduced_flops_per_second if one.reduced else self.flops_per_second
            total += self.seconds_per_operation + max(one.flops / rate, one.num_bytes / self.bytes_per_second)
        return total


def work_of(func: Any, args: Sequence[Any], result: Any) -> Work:  # noqa: ANN401
    """Return the work of one call of an operator of torch."""
    name = func.name().removeprefix("aten::").partition(".")[0]
    given, made = list(_tensors(args)), list(_tensors((result,)))
    if not made:
        return Work(0, 0, False)
    storages = {tensor.untyped_storage()._cdata for tensor in given}
    looks = not func._schema.is_mutable and all(tensor.untyped_storage()._cdata in storages for tensor in made)
    num_bytes = 0 if looks else sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
    flops = _FLOPS[name](args, made[0]) if name in _FLOPS else 0
    return Work(flops, num_bytes, bool(flops) and given[-1].element_size() == 2)


def _convolution(args: Sequence[Any], output: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    places = (x if transposed else output).numel()
    return int(2 * places * weight.numel() // weight.shape[0])


def _convolution_backward(args: Sequence[Any], _: Tensor) -> int:
    gradient, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
    places = (x if transposed else gradient).numel()
    return int((wanted[0] + wanted[1]) * 2 * places * weight.numel() // weight.shape[0])


_FLOPS: dict[str, Callable[[Sequence[Any], Tensor], int]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "mm": lambda args, output: 2 * output.numel() * args[0].shape[-1],
    "bmm": lambda args, output: 2 * output.numel() * args[0].shape[-1],
    "addmm": lambda args, output: 2 * output.numel() * args[1].shape[-1],
    "baddbmm": lambda args, output: 2 * output.numel() * args[1].shape[-1],
}
"""Operator -> floating-point operations of a call, from its arguments and its (first) result."""


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


# ---------------------------------------------------------------- measured


def measure_speed(device: torch.device, reduced: torch.dtype | None) -> Speed:
    """Return how fast this machine is, measured in about a second.

    Args:
        reduced: the format of mixed precision on this device, None where it has none.
    """
    rate = _convolution_rate(device, torch.float32)
    x = torch.ones(2**24, device=device)
    tiny = torch.ones(8, device=device, requires_grad=True)

    def chain() -> None:
        y = tiny
        for _ in range(100):
            y = y * y
        y.sum().backward()  # type: ignore[no-untyped-call]

    return Speed(
        flops_per_second=rate,
        reduced_flops_per_second=rate if reduced is None else _convolution_rate(device, reduced),
        bytes_per_second=2 * x.nbytes / _seconds(lambda: x.add_(1.0), device),
        seconds_per_operation=_seconds(chain, device) / 400,  # a product and the three operations of its gradient
    )


def _convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations a second of a usual convolution, forward and backward."""
    batch, channels, side = 8, 64, 56
    x, weight = (
        torch.ones(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for shape in ((batch, channels, side, side), (channels, channels, 3, 3))
    )
    seconds = _seconds(lambda: F.conv2d(x, weight, padding=1).sum().backward(), device)  # type: ignore[no-untyped-call]
    return 3 * 2 * batch * side**2 * weight.numel() / seconds


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of a few runs, after one that warms up."""
    best = float("inf")
    for round_ in range(5):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if round_:
            best = min(best, time.perf_counter() - start)
    return best
