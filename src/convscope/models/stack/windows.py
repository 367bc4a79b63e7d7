"""Sliding windows: how large the output of a convolution or pooling is, and how the image is padded for it.

Along one axis of n pixels a window of k taps, d pixels apart, spans d (k - 1) + 1 pixels and moves s pixels a step.
"""

from typing import Literal, get_args

from convscope.errors import UsageError, unknown_name

NamedPadding = Literal["valid", "same", "full"]
Padding = NamedPadding | int
"""`valid` pads nothing, `same` gives ceil(n / s) positions, `full` every position where the window touches the image;
a number is that many pixels on either side."""


def window_span(kernel: int, dilation: int = 1) -> int:
    """Return how many pixels a window covers from its first tap to its last."""
    return dilation * (kernel - 1) + 1


def padding_amounts(
    size: int, kernel: int, *, stride: int = 1, dilation: int = 1, padding: Padding = "valid"
) -> tuple[int, int]:
    """Return the pixels added before and after an axis of `size` pixels.

    `same` follows TensorFlow: where an odd number is needed, the extra pixel comes after. It depends on the size when
    the stride is not 1.

    Source: Dumoulin and Visin, arXiv:1603.07285 (valid, same = half, full); https://www.tensorflow.org/api_docs/python/tf/nn
    ("Notes on padding").
    """
    span = window_span(kernel, dilation)
    if padding == "valid":
        return 0, 0
    if padding == "full":
        return span - 1, span - 1
    if padding == "same":
        total = max(0, (_ceil_div(size, stride) - 1) * stride + span - size)
        return total // 2, total - total // 2
    if isinstance(padding, str):
        raise unknown_name("padding", padding, get_args(NamedPadding))
    return padding, padding


def output_size(size: int, kernel: int, *, stride: int = 1, dilation: int = 1, padding: Padding = "valid") -> int:
    """Return the number of positions of a window along an axis of `size` pixels.

    Raises:
        UsageError: the window does not fit once.

    Example:
        >>> output_size(32, 5), output_size(32, 5, padding="full"), output_size(75, 3, stride=2, padding="same")
        (28, 36, 38)
    """
    span = window_span(kernel, dilation)
    padded = size + sum(padding_amounts(size, kernel, stride=stride, dilation=dilation, padding=padding))
    if padded < span:
        added = f" with {padded - size} of padding" if padded > size else ""
        raise UsageError(f"a window of {span} pixels does not fit into {size}{added}")
    return (padded - span) // stride + 1


def symmetric_padding(kernel: int, *, stride: int = 1, dilation: int = 1, padding: Padding = "valid") -> int | None:
    """Return the padding as one number for both sides that holds for every size, or None where there is none."""
    span = window_span(kernel, dilation)
    if padding == "same" and span > 1 and (stride > 1 or span % 2 == 0):
        return None
    return padding_amounts(span, kernel, stride=stride, dilation=dilation, padding=padding)[0]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
