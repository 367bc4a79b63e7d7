"""What torch's CPU kernels allocate and its meta kernels do not show: other strides of the result, and workspace."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _convolution(output: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    """Return the output in the memory order that oneDNN gives it: channels-last if either operand is."""
    transposed = rest[4]
    return output if transposed or x.dim() != 4 else _empty(output, _convolution_order(x, weight))


def _batch_norm(results: tuple[Tensor, ...], x: Tensor, *rest: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Return the output in the order of the input, and the mean and standard deviation, which only training keeps."""
    channels = x.shape[1] if rest[4] else 0
    return _empty(x, _order(x)), x.new_empty(channels), x.new_empty(channels)


def _batch_norm_backward(results: tuple[Tensor, ...], *args: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    """Return the gradients that are needed; the meta kernel always returns the one of the input."""
    return tuple(result if wanted else None for result, wanted in zip(results, args[-1], strict=True))


def _in_gradient_order(result: Tensor, gradient: Tensor, *_: object) -> Tensor:
    return result if 0 in gradient.stride() else _empty(result, _order(gradient))


RESULTS: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.hardtanh_backward.default: _in_gradient_order,
    aten.hardswish_backward.default: _in_gradient_order,
}
"""Operator -> function of the meta kernel's result and the arguments; it returns what the CPU kernel returns."""


def _convolution_bytes(x: Tensor, weight: Tensor, *rest: Any) -> int:  # noqa: ANN401
    """Return the size of oneDNN's copies: the weights in its own order, feature maps as channels-last."""
    transposed = rest[4]
    return weight.nbytes + (0 if transposed or x.dim() != 4 else _convolution_copies(x, weight, x))


def _convolution_backward_bytes(gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:  # noqa: ANN401
    """Return the size of oneDNN's copies; it adds up gradients of the weights in its own order and copies them back.

    The channels of each group are filled up to whole blocks, so that a depthwise kernel takes 256 times its size with
    AVX-512; only small ones on large enough images have a layout of their own.
    """
    _, strides, paddings, _, _, _, groups, _ = rest
    outputs, inputs, *kernel = weight.shape
    least = [side + -padding % stride for side, padding, stride in zip(kernel, paddings, strides, strict=True)]
    depthwise = outputs == groups and inputs == 1 and max(kernel) <= 3
    own_layout = depthwise and all(side >= each for side, each in zip(x.shape[2:], least, strict=True))
    block = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
    filled = groups * math.ceil(outputs / groups / block) * math.ceil(inputs / block) * block**2 * math.prod(kernel)
    own_bytes = weight.nbytes if groups == 1 or own_layout else filled * weight.itemsize
    return own_bytes + weight.nbytes + _convolution_copies(x, weight, x, gradient)


def _batch_norm_backward_bytes(gradient: Tensor, x: Tensor, *rest: Any) -> int:  # noqa: ANN401
    """Return the size of the input's gradient if both tensors have the same strides: it is allocated twice."""
    return x.nbytes if rest[-1][0] and gradient.stride() == x.stride() else 0


def _pool_backward_bytes(gradient: Tensor, x: Tensor, *_: object) -> int:
    return _copy_bytes(gradient, _order(x))


def _contiguous_bytes(*tensors: Any) -> int:  # noqa: ANN401
    return sum(_copy_bytes(tensor, torch.contiguous_format) for tensor in tensors)


WORKSPACE: dict[Any, Callable[..., int]] = {
    aten.convolution.default: _convolution_bytes,
    aten.convolution_backward.default: _convolution_backward_bytes,
    aten.native_batch_norm_backward.default: _batch_norm_backward_bytes,
    aten.max_pool2d_with_indices_backward.default: _pool_backward_bytes,
    aten.avg_pool2d_backward.default: _pool_backward_bytes,
    aten.native_layer_norm.default: lambda x, *_: _contiguous_bytes(x),
    aten.native_layer_norm_backward.default: lambda gradient, x, *_: _contiguous_bytes(gradient, x),
}
"""Operator -> function of the arguments; it returns the bytes that the CPU kernel allocates and frees."""


def _convolution_order(x: Tensor, weight: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if last in (_order(x), _order(weight)) else torch.contiguous_format


def _convolution_copies(x: Tensor, weight: Tensor, *tensors: Tensor) -> int:
    order = _convolution_order(x, weight) if x.dim() == 4 else torch.contiguous_format
    return sum(_copy_bytes(tensor, order) for tensor in tensors)


def _empty(like: Tensor, order: torch.memory_format) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=like.device, memory_format=order)


def _order(tensor: Tensor) -> torch.memory_format:
    """Return the memory order of a tensor as torch sees it: channels-last only if it is not contiguous as well."""
    if tensor.dim() != 4 or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _copy_bytes(tensor: Tensor, order: torch.memory_format) -> int:
    """Return the size of a copy in this order; 0 if the tensor already has it."""
    return 0 if tensor.is_contiguous(memory_format=order) else tensor.nbytes
