"""The work of a training step, and the time it takes on a machine."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.data.batches import num_batches
from convscope.device import shortest_seconds
from convscope.results.memory import Duration
from convscope.torch_internals import changes_operand, storage_key


@dataclass(frozen=True)
class Work:
    """The work of one operation.

    Args:
        flops: floating-point operations of convolutions and matrix products; 0 for all other operations.
        num_bytes: read and written, each tensor once; 0 for views.
        reduced: whether it computes in a 16-bit format.
    """

    flops: int
    num_bytes: int
    reduced: bool


@dataclass(frozen=True)
class Speed:
    """How fast a machine trains.

    Args:
        flops_per_second, reduced_flops_per_second: of convolutions and matrix products in float32 and in 16 bits.
        bytes_per_second: read and written.
        seconds_per_operation: overhead of any operation, autograd included.
    """

    flops_per_second: float
    reduced_flops_per_second: float
    bytes_per_second: float
    seconds_per_operation: float

    def seconds(self, work: Iterable[Work]) -> float:
        """Return the time of these operations; each takes the longer of its arithmetic and its memory traffic."""
        total = 0.0
        for one in work:
            rate = self.reduced_flops_per_second if one.reduced else self.flops_per_second
            total += self.seconds_per_operation + max(one.flops / rate, one.num_bytes / self.bytes_per_second)
        return total


def work_of(func: Any, args: Sequence[Any], result: Any) -> Work:  # noqa: ANN401
    """Return the work of one call of a torch operator."""
    name = func.name().removeprefix("aten::").partition(".")[0]
    given, made = list(_tensors(args)), list(_tensors((result,)))
    if not made:
        return Work(0, 0, False)
    storages = {storage_key(tensor) for tensor in given}
    is_view = not changes_operand(func) and all(storage_key(tensor) in storages for tensor in made)
    num_bytes = 0 if is_view else sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
    flops = _FLOPS[name](args, made[0]) if name in _FLOPS else 0
    return Work(flops, num_bytes, bool(flops) and given[-1].element_size() == 2)


def _convolution(args: Sequence[Any], output: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    positions = (x if transposed else output).numel()
    return int(2 * positions * weight.numel() // weight.shape[0])


def _convolution_backward(args: Sequence[Any], _: Tensor) -> int:
    gradient, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
    positions = (x if transposed else gradient).numel()
    return int((wanted[0] + wanted[1]) * 2 * positions * weight.numel() // weight.shape[0])


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


def measure_speed(device: torch.device, reduced: torch.dtype | None) -> Speed:
    """Return how fast this device is, measured in about a second.

    Args:
        reduced: the 16-bit format of this device, None if it has none.
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
        bytes_per_second=2 * x.nbytes / shortest_seconds(lambda: x.add_(1.0), device),
        seconds_per_operation=shortest_seconds(chain, device)
        / 400,  # a product and the three operations of its gradient
    )


def _convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations per second of a typical convolution, forward and backward."""
    batch, channels, side = 8, 64, 56
    x, weight = (
        torch.ones(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for shape in ((batch, channels, side, side), (channels, channels, 3, 3))
    )

    def convolve() -> None:
        F.conv2d(x, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]

    return 3 * 2 * batch * side**2 * weight.numel() / shortest_seconds(convolve, device)


MEASURED_STEPS = (1.0, 2.0)
"""Shortest and longest time of a real epoch as multiples of its timed steps: an epoch also prepares images, predicts
the validation split and saves the state, which counts most in epochs of a second; see
benchmarks/results/training_time.md."""
ESTIMATED_STEPS = (1.0, 6.0)
"""The same for steps that are estimated from their operations."""


def predict_duration(
    step_seconds: Sequence[float],
    *,
    measured_batch: int | None,
    batch_size: int,
    accumulate: int,
    images: int,
    epochs: int,
) -> Duration:
    """Return how long one epoch and all epochs take.

    Args:
        step_seconds: of batches of `measured_batch` images; if that is None, estimates for batches of `batch_size`.
        batch_size: images in the network at a time.
    """
    least, most = ESTIMATED_STEPS if measured_batch is None else MEASURED_STEPS
    median = statistics.median(step_seconds)
    one = median * batch_size / (measured_batch or batch_size)
    epoch = one * images / batch_size
    return Duration(
        images=images,
        epochs=epochs,
        steps_an_epoch=math.ceil(num_batches(images, batch_size) / accumulate),
        step_seconds=one * accumulate,
        epoch_seconds=epoch,
        run_seconds=epoch * epochs,
        low_factor=least * (min(step_seconds) / median),
        high_factor=max(max(step_seconds) / median, most),
        measured_batch_size=measured_batch,
    )
