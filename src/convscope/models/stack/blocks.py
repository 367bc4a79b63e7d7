"""Blocks that several networks share. All take and return [B, C, H, W] unless they say otherwise."""

from collections import OrderedDict
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.eval_mode import eval_mode
from convscope.models.spec import InputShape
from convscope.models.stack.windows import Padding, padding_amounts, symmetric_padding

Kernel = int | tuple[int, int]
"""Height and width of a window in pixels; one number is both."""


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: Kernel,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: Padding = "valid",
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """Return a convolution; `windows.output_size` gives the size of its output."""
    sides = [symmetric_padding(k, stride=stride, dilation=dilation, padding=padding) for k in _pair(kernel)]
    kind = SameConv2d if None in sides else nn.Conv2d
    height, width = (0 if None in sides else side or 0 for side in sides)
    return kind(in_channels, out_channels, kernel, stride, (height, width), dilation, groups, bias)


class SameConv2d(nn.Conv2d):
    """Convolution with `same` padding that the image's size decides, or that differs between the sides."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        (height, width), dilation = self.kernel_size, self.dilation[0]
        return super().forward(_pad(x, (height, width), self.stride[0], "same", dilation=dilation))

    def extra_repr(self) -> str:
        """Return the usual description and the padding."""
        return f"{super().extra_repr()}, padding=same"  # type: ignore[no-untyped-call]


def convolution_unit(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    activation: bool = True,
    norm: bool = True,
) -> nn.Sequential:
    """Return convolution of odd kernel, batch norm, ReLU; with the norm, which has a bias, the convolution has none.

    Source: Ioffe and Szegedy, arXiv:1502.03167, section 3.2.
    """
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not norm)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution)
    if norm:
        layers["norm"] = nn.BatchNorm2d(out_channels)
    if activation:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def separable_convolution(
    in_channels: int,
    out_channels: int,
    kernel: Kernel,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: Padding = "valid",
) -> nn.Sequential:
    """Return a convolution of each channel by itself, then a 1x1 convolution across the channels.

    It stands for one convolution with C k k + C C' instead of C C' k k weights. Nothing comes between the two, as in
    Xception; MobileNet puts batch norm and ReLU there.

    Source: Chollet, arXiv:1610.02357; Howard et al., arXiv:1704.04861.
    """
    depthwise = convolution(
        in_channels,
        in_channels,
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=in_channels,
        bias=False,
    )
    pointwise = nn.Conv2d(in_channels, out_channels, 1)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def max_pool(kernel: Kernel, *, stride: int | None = None, padding: Padding = "valid") -> nn.MaxPool2d:
    """Return max-pooling; with a stride below the kernel the windows overlap. The stride defaults to the kernel.

    Source: overlapping: Krizhevsky et al., NIPS 2012, section 3.4.
    """
    sides = _pool_padding(kernel, stride, padding)
    if sides is None:
        return PaddedMaxPool2d(kernel, stride, padding)
    return nn.MaxPool2d(kernel, stride, sides)


def average_pool(kernel: Kernel, *, stride: int | None = None, padding: Padding = "valid") -> nn.AvgPool2d:
    """Return average-pooling over the pixels of the image that are in the window, padding left out of the count."""
    sides = _pool_padding(kernel, stride, padding)
    if sides is None:
        return PaddedAvgPool2d(kernel, stride, padding)
    return nn.AvgPool2d(kernel, stride, sides, count_include_pad=False)


class PaddedMaxPool2d(nn.MaxPool2d):
    """Max-pooling with padding that nn.MaxPool2d does not have: beyond half the kernel, or by the image's size."""

    def __init__(self, kernel: Kernel, stride: int | None, padding: Padding) -> None:
        super().__init__(kernel, stride)
        self.padding_rule = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest value of the image in each window."""
        largest: Tensor = super().forward(_pad(x, self.kernel_size, self.stride, self.padding_rule, value=-torch.inf))
        return largest


class PaddedAvgPool2d(nn.AvgPool2d):
    """Average-pooling with padding that nn.AvgPool2d does not have: beyond half the kernel, or by the size."""

    def __init__(self, kernel: Kernel, stride: int | None, padding: Padding) -> None:
        super().__init__(kernel, stride)
        self.padding_rule = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of the image in each window."""
        inside = torch.ones_like(x[:1, :1])
        return self._mean_with_padding(x) / self._mean_with_padding(inside)

    def _mean_with_padding(self, x: Tensor) -> Tensor:
        mean: Tensor = super().forward(_pad(x, self.kernel_size, self.stride, self.padding_rule))
        return mean


class MinPool2d(nn.Module):
    """Min-pooling: the smallest value in each window, which is max-pooling of the negative."""

    def __init__(self, kernel: Kernel, *, stride: int | None = None, padding: Padding = "valid") -> None:
        super().__init__()
        self.pool = max_pool(kernel, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smallest value in each window."""
        negative: Tensor = self.pool(-x)
        return -negative


def local_response_norm(size: int = 5) -> nn.LocalResponseNorm:
    """Return b_c = a_c / (2 + 1e-4 * sum of a_j^2 over the `size` channels around c) ** 0.75.

    torch divides alpha by the size and the paper does not, so alpha is multiplied by it here.

    Source: Krizhevsky et al., NIPS 2012, section 3.3.
    """
    return nn.LocalResponseNorm(size, alpha=1e-4 * size, beta=0.75, k=2.0)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a weight in 0..1 that two small dense layers compute from the channels' averages.

    Source: Hu et al., arXiv:1709.01507; 1x1 convolutions on 1x1 feature maps are those dense layers.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its channels scaled."""
        averages = x.mean(dim=(2, 3), keepdim=True)
        weights: Tensor = self.excite(self.squeeze(averages).relu()).sigmoid()
        return x * weights


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, whose output is added to their input before the last ReLU.

    Where channels or stride change, a 1x1 convolution with batch norm brings the input to the same shape. With
    `norm=False` the block is the same without batch norms.

    Source: He et al., arXiv:1512.03385, figure 2 and option B.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            convolution_unit(in_channels, out_channels, 3, stride=stride, norm=norm),
            convolution_unit(out_channels, out_channels, 3, activation=False, norm=norm),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = convolution_unit(in_channels, out_channels, 1, stride=stride, activation=False, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        total: Tensor = self.residual(x) + self.shortcut(x)
        return total.relu()


class InceptionBlock(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and max-pooling in parallel; their outputs are concatenated.

    A quarter of the channels comes from the 1x1 branch, an eighth each from the 5x5 and the pool branch, and the rest,
    half, from the 3x3: the shares of GoogLeNet's first block (3a). So are the 1x1 reductions before the 3x3 (to 3/4 of
    its channels) and the 5x5 (to half). With batch norm, as in later versions, or without, as in the first.

    Source: Szegedy et al., arXiv:1409.4842, figure 2b and table 1.
    """

    MIN_CHANNELS = 8

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool = True) -> None:
        super().__init__()
        if out_channels < self.MIN_CHANNELS:
            raise UsageError(
                f"an inception block of {out_channels} channels has too few for its four branches; give it "
                f"{self.MIN_CHANNELS} or more"
            )
        ones, fives, pooled = out_channels // 4, out_channels // 8, out_channels // 8
        threes = out_channels - ones - fives - pooled
        unit = partial(convolution_unit, norm=norm)
        self.branch_1x1 = unit(in_channels, ones, 1)
        self.branch_3x3 = nn.Sequential(unit(in_channels, threes * 3 // 4, 1), unit(threes * 3 // 4, threes, 3))
        self.branch_5x5 = nn.Sequential(unit(in_channels, max(1, fives // 2), 1), unit(max(1, fives // 2), fives, 5))
        self.branch_pool = nn.Sequential(max_pool(3, stride=1, padding=1), unit(in_channels, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out_channels, H, W]."""
        branches = (self.branch_1x1, self.branch_3x3, self.branch_5x5, self.branch_pool)
        return torch.cat([branch(x) for branch in branches], dim=1)


class BinaryLogit(nn.Module):
    """Turns one logit z [B, 1] into the two logits (0, z) [B, 2].

    Cross-entropy over the pair equals binary cross-entropy on z, so a network with a single output unit trains and
    is evaluated like any other.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the pair of logits."""
        return torch.cat([torch.zeros_like(x), x], dim=1)


def output_shape(layers: nn.Module, input_shape: InputShape) -> tuple[int, ...]:
    """Return the shape of one output without the batch axis, found by running the layers on one black image.

    Raises:
        UsageError: the image is too small for the layers.
    """
    try:
        with eval_mode(layers), torch.no_grad():
            return tuple(layers(torch.zeros(1, *input_shape)).shape[1:])
    except RuntimeError as error:
        raise too_small(input_shape) from error


def too_small(input_shape: InputShape) -> UsageError:
    """Return the error for images that shrink to nothing on their way through a network."""
    shape = "x".join(map(str, input_shape))
    return UsageError(
        f"images of {shape} (channels x height x width) are too small for this network; "
        "use a larger --image-size or another --model"
    )


def flattened_size(layers: nn.Module, input_shape: InputShape) -> int:
    """Return the number of values that a flatten after these layers gives for one image."""
    return prod(output_shape(layers, input_shape))


def _pair(kernel: Kernel) -> tuple[int, int]:
    return (kernel, kernel) if isinstance(kernel, int) else kernel


def _pool_padding(kernel: Kernel, stride: int | None, padding: Padding) -> tuple[int, int] | None:
    """Return the padding as torch's own pooling takes it, or None where it cannot.

    Raises:
        UsageError: with so much padding some windows would hold no pixel.
    """
    sizes = _pair(kernel)
    if isinstance(padding, int) and padding >= min(sizes):
        raise UsageError(
            f"padding {padding} leaves some pooling windows of {sizes[0]}x{sizes[1]} without a pixel; "
            f"use {min(sizes) - 1} at most"
        )
    height, width = (symmetric_padding(size, stride=stride or size, padding=padding) for size in sizes)
    if height is None or width is None or height > sizes[0] // 2 or width > sizes[1] // 2:
        return None
    return height, width


def _pad(
    x: Tensor, kernel: Kernel, stride: Kernel, padding: Padding, *, dilation: int = 1, value: float = 0.0
) -> Tensor:
    (top, bottom), (left, right) = (
        padding_amounts(size, k, stride=s, dilation=dilation, padding=padding)
        for size, k, s in zip(x.shape[-2:], _pair(kernel), _pair(stride), strict=True)
    )
    return F.pad(x, (left, right, top, bottom), value=value)
