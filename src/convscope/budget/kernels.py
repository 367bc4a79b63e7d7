"""What torch's CPU kernels allocate, where that is not what their meta versions show.

Each function takes the arguments of an operator and returns its results, empty, and the bytes it needs beside them
while it runs. Those that do only what torch's meta versions do are here because the latter are written in Python: the
first call imports torch's compiler and sympy, 160 MiB in two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Results = tuple[Any, int]


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Results:
    """Convolution by oneDNN: the weights are brought into an order of its own, and the maps to channels-last."""
    if transposed or x.dim() != 4:
        return torch.ops.aten.convolution.default(
            x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        ), weight.nbytes
    sides = [
        (size + 2 * pad - step * (kernel - 1) - 1) // by + 1
        for size, kernel, by, pad, step in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    if x.shape[1] != weight.shape[1] * groups or min(sides) < 1:
        raise RuntimeError(f"maps of {tuple(x.shape[1:])} do not fit a convolution with weights {tuple(weight.shape)}")
    order = _order(x, weight)
    output = torch.empty((x.shape[0], weight.shape[0], *sides), dtype=x.dtype, device=x.device, memory_format=order)
    return output, weight.nbytes + _copy_bytes(x, order)


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> Results:
    """Gradients of a convolution; those of the weights are summed in oneDNN's order and then brought into torch's."""
    order = _order(x, weight) if x.dim() == 4 else torch.contiguous_format
    of_input = _like(x, order) if wanted[0] else None
    of_weight = (
        torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device)
        if wanted[1]
        else None
    )
    of_bias = weight.new_empty(weight.shape[1 if transposed else 0]) if wanted[2] else None
    scratch = 2 * weight.nbytes + _copy_bytes(x, order) + _copy_bytes(gradient, order)
    return (of_input, of_weight, of_bias), scratch


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Results:
    """Batch norm; in training it keeps mean and deviation of the batch."""
    channels = x.shape[1] if training else 0
    return (_like(x), x.new_empty(channels), x.new_empty(channels)), 0


def _batch_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor | None, *rest: Any) -> Results:  # noqa: ANN401
    """Gradients of a batch norm; where both tensors lie alike, that of the input is allocated twice."""
    wanted = rest[-1]
    return (
        _like(x) if wanted[0] else None,
        x.new_empty(x.shape[1]) if wanted[1] else None,
        x.new_empty(x.shape[1]) if wanted[2] else None,
    ), x.nbytes if wanted[0] and gradient.stride() == x.stride() else 0


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Results:
    """Max-pooling; it keeps the place of each largest value as an int64."""
    output = _pooled(x, kernel, stride, padding, dilation, ceil_mode)
    return (output, _like(output, dtype=torch.int64)), 0


def _average_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    *_: object,
) -> Results:
    return _pooled(x, kernel, stride, padding, (1,), ceil_mode), 0


def _pool_backward(gradient: Tensor, x: Tensor, *_: object) -> Results:
    return _like(x), _copy_bytes(gradient, _suggested(x))


def _pooled(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """Return an empty output of a pooling, in the order of its input."""
    sides = []
    for axis, size in enumerate(x.shape[-2:]):
        length, pad, step = kernel[axis % len(kernel)], padding[axis % len(padding)], dilation[axis % len(dilation)]
        by = stride[axis % len(stride)] if stride else length
        room = size + 2 * pad - step * (length - 1) - 1
        side = -(-room // by) + 1 if ceil_mode else room // by + 1
        if ceil_mode and (side - 1) * by >= size + pad:
            side -= 1  # no window begins in the padding behind the picture
        sides.append(side)
    if min(sides) < 1:
        raise RuntimeError(f"a window of {'x'.join(map(str, kernel))} does not fit into maps of {tuple(x.shape[1:])}")
    return torch.empty((*x.shape[:-2], *sides), dtype=x.dtype, device=x.device, memory_format=_suggested(x))


def _reduce(x: Tensor, axes: Sequence[int] | None = None, keep: bool = False) -> Results:
    """Mean or sum over axes; none are all."""
    reduced = {axis % x.dim() for axis in axes or range(x.dim())}
    sides = [1 if axis in reduced else size for axis, size in enumerate(x.shape) if keep or axis not in reduced]
    return torch.empty(sides, dtype=x.dtype, device=x.device), 0


def _cat(tensors: Sequence[Tensor], axis: int = 0) -> Results:
    """Maps behind one another, in the order that all of them are in."""
    first, number = tensors[0], axis % tensors[0].dim()
    sides = list(first.shape)
    sides[number] = sum(x.shape[number] for x in tensors)
    if any((*x.shape[:number], *x.shape[number + 1 :]) != (*sides[:number], *sides[number + 1 :]) for x in tensors):
        raise RuntimeError(f"maps of {', '.join(str(tuple(x.shape[1:])) for x in tensors)} do not fit one another")
    orders = {_suggested(x) for x in tensors}
    order = orders.pop() if len(orders) == 1 else torch.contiguous_format
    return torch.empty(sides, dtype=first.dtype, device=first.device, memory_format=order), 0


def _matrix_product(*operands: Tensor) -> Results:
    """Product of two matrices, or of as many pairs; what is added to it comes first."""
    a, b = operands[-2:]
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError(f"matrices of {tuple(a.shape)} and {tuple(b.shape)} cannot be multiplied")
    return torch.empty((*a.shape[:-1], b.shape[-1]), dtype=a.dtype, device=a.device), 0


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Results:
    """Layer norm; it keeps mean and deviation of each row, and computes with a copy of what is not contiguous."""
    if tuple(x.shape[-len(shape) :]) != tuple(shape):
        raise RuntimeError(f"maps of {tuple(x.shape[1:])} do not end in the {tuple(shape)} that are normalized")
    rows = (*x.shape[: -len(shape)], *(1 for _ in shape))
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return (output, x.new_empty(rows), x.new_empty(rows)), _copy_bytes(x, torch.contiguous_format)


def _layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    deviation: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> Results:
    of_input = torch.empty(x.shape, dtype=x.dtype, device=x.device) if wanted[0] else None
    of_weight = torch.empty(tuple(shape), dtype=x.dtype, device=x.device) if wanted[1] else None
    of_bias = torch.empty(tuple(shape), dtype=x.dtype, device=x.device) if wanted[2] else None
    copies = _copy_bytes(x, torch.contiguous_format) + _copy_bytes(gradient, torch.contiguous_format)
    return (of_input, of_weight, of_bias), copies


def _log_softmax(x: Tensor, axis: int, half_to_float: bool) -> Results:
    return _like(x), 0


def _log_softmax_backward(gradient: Tensor, *_: object) -> Results:
    return _like(gradient), 0


def _nll_loss(
    log_probabilities: Tensor, labels: Tensor, weights: Tensor | None, reduction: int, ignored: int
) -> Results:
    shape = labels.shape if reduction == 0 else ()
    return (log_probabilities.new_empty(shape), log_probabilities.new_empty(())), 0


def _nll_loss_backward(gradient: Tensor, log_probabilities: Tensor, *_: object) -> Results:
    return _like(log_probabilities), 0


KERNELS: dict[Any, Callable[..., Results]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.convolution_backward.default: _convolution_backward,
    torch.ops.aten.max_pool2d_with_indices.default: _max_pool,
    torch.ops.aten.max_pool2d_with_indices_backward.default: _pool_backward,
    torch.ops.aten.avg_pool2d.default: _average_pool,
    torch.ops.aten.avg_pool2d_backward.default: _pool_backward,
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
    torch.ops.aten.cat.default: _cat,
    torch.ops.aten.mm.default: _matrix_product,
    torch.ops.aten.addmm.default: _matrix_product,
    torch.ops.aten.bmm.default: _matrix_product,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
    torch.ops.aten.native_layer_norm_backward.default: _layer_norm_backward,
    torch.ops.aten._log_softmax.default: _log_softmax,
    torch.ops.aten._log_softmax_backward_data.default: _log_softmax_backward,
    torch.ops.aten.nll_loss_forward.default: _nll_loss,
    torch.ops.aten.nll_loss_backward.default: _nll_loss_backward,
    torch.ops.aten.mean.dim: _reduce,
    torch.ops.aten.sum.dim_IntList: _reduce,
}
"""Operator -> what it allocates."""
ELEMENTWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "neg", "exp", "relu", "sigmoid", "tanh", "silu", "gelu", "elu", "leaky_relu"),
        *("hardtanh", "hardswish", "hardsigmoid", "threshold_backward", "sigmoid_backward", "tanh_backward"),
        *("silu_backward", "gelu_backward", "elu_backward", "leaky_relu_backward", "hardtanh_backward"),
        *("hardswish_backward", "hardsigmoid_backward", "clone", "ones_like", "zeros_like", "empty_like"),
    )
)
"""Operators whose result is as large as the larger operand; `relu_` and the like put it there."""


def elementwise(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:  # noqa: ANN401
    """Return the result of an operator in ELEMENTWISE, empty; None for another, and for operands that torch must see.

    Source: the strides that torch.TensorIterator gives to results, for operands of one type.
    """
    name = func.name().removeprefix("aten::").partition(".")[0]
    operands = [value for value in args if isinstance(value, Tensor)]
    if name.removesuffix("_") not in ELEMENTWISE or not operands or "out" in kwargs:
        return None
    kind, order = operands[0].dtype, kwargs.get("memory_format") or torch.preserve_format
    largest = max((x.shape for x in operands), key=lambda shape: (len(shape), shape.numel()))
    if not kind.is_floating_point or kwargs.get("dtype") not in (None, kind) or order != torch.preserve_format:
        return None
    if any(x.dtype != kind or not _broadcasts(x.shape, largest) for x in operands):
        return None
    if name.endswith("_"):
        return operands[0] if operands[0].shape == largest else None
    for x in reversed(operands) if name == "threshold_backward" else operands:
        if x.shape == largest and _is_dense(x):
            return torch.empty_strided(x.shape, x.stride(), dtype=kind, device=x.device)
        if x.shape == largest and 0 not in x.stride():
            return None
    strides = [stride for stride in operands[0].stride() if stride]
    if operands[0].shape == largest and strides == sorted(strides, reverse=True):  # repeated along the other axes
        return torch.empty(largest, dtype=kind, device=operands[0].device)
    return None


def _broadcasts(shape: Sequence[int], into: Sequence[int]) -> bool:
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(into), strict=False))


def _is_dense(x: Tensor) -> bool:
    """Return whether the elements lie side by side, in whatever order of the axes."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _like(x: Tensor, order: torch.memory_format | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty tensor of the same shape, in the same order or another."""
    return torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device, memory_format=order or _suggested(x))


def _order(x: Tensor, weight: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if last in (_suggested(x), _suggested(weight)) else torch.contiguous_format


def _suggested(tensor: Tensor) -> torch.memory_format:
    """Return the order that torch takes a tensor for: channels-last only where it could not be the usual one."""
    if tensor.dim() != 4 or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _copy_bytes(tensor: Tensor, order: torch.memory_format) -> int:
    """Return the size of the copy that is made where a tensor is in another order."""
    return 0 if tensor.is_contiguous(memory_format=order) else tensor.numel() * tensor.element_size()
