"""Parts of networks against torch, torchvision and their formulas written out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.stack.blocks import (
    InceptionBlock,
    MinPool2d,
    ResidualBlock,
    SqueezeExcitation,
    average_pool,
    convolution,
    convolution_unit,
    local_response_norm,
    max_pool,
    separable_convolution,
)
from convscope.models.stack.notation import build_stack, parse_stack
from convscope.models.stack.windows import Padding, output_size, padding_amounts, symmetric_padding

SIZES, KERNELS, STRIDES, DILATIONS = range(1, 14), (1, 2, 3, 4, 5), (1, 2, 3, 4), (1, 2, 3)
PADDINGS: tuple[Padding, ...] = ("valid", "same", "full", 0, 1, 2)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_output_size_is_that_of_torch(kernel: int, padding: Padding) -> None:
    for size, stride, dilation in product(SIZES, STRIDES, DILATIONS):
        layer = convolution(1, 1, (kernel, 1), stride=stride, dilation=dilation, padding=padding)
        if isinstance(padding, int):
            layer.padding = (padding, 0)
        image = torch.zeros(1, 1, size, 1)
        case = f"size {size}, stride {stride}, dilation {dilation}"
        try:
            expected = output_size(size, kernel, stride=stride, dilation=dilation, padding=padding)
        except UsageError:
            with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
                layer(image)
        else:
            assert layer(image).shape[2] == expected, case


def places(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Count where a window can stand, by trying."""
    span = dilation * (kernel - 1) + 1
    return sum(1 for start in range(-before, size + after - span + 1, stride))


def test_padding_is_what_its_name_says() -> None:
    for size, kernel, stride, dilation in product(SIZES, KERNELS, STRIDES, DILATIONS):
        case = f"size {size}, kernel {kernel}, stride {stride}, dilation {dilation}"
        span = dilation * (kernel - 1) + 1
        options = {"stride": stride, "dilation": dilation}
        before, after = padding_amounts(size, kernel, padding="same", **options)
        assert output_size(size, kernel, padding="same", **options) == -(-size // stride), case
        assert 0 <= after - before <= 1, case
        if before + after:  # one pixel less would lose a place
            assert places(size, kernel, stride, dilation, before, after - 1) < -(-size // stride), case
        assert padding_amounts(size, kernel, padding="full", **options) == (span - 1, span - 1), case
        touching = [start for start in range(-100, 100, 1) if start <= size - 1 and start + span - 1 >= 0]
        assert output_size(size, kernel, padding="full", dilation=dilation) == len(touching), case
        if size >= span:
            assert output_size(size, kernel, **options) == places(size, kernel, stride, dilation, 0, 0), case


def test_padding_that_holds_for_every_size_is_found() -> None:
    for kernel, stride, dilation, padding in product(KERNELS, STRIDES, DILATIONS, PADDINGS):
        options = {"stride": stride, "dilation": dilation, "padding": padding}
        seen = {padding_amounts(size, kernel, **options) for size in range(1, 40)}
        expected = next(iter(seen))[0] if len(seen) == 1 and len(set(next(iter(seen)))) == 1 else None
        assert symmetric_padding(kernel, **options) == expected


def test_a_window_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="a window of 5 pixels does not fit into 2 with 2 of padding"):
        output_size(2, 3, dilation=2, padding=1)


def test_an_unknown_padding_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'same'.*full, same, valid"):
        output_size(9, 3, padding="sane")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    # https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2 and hand counts
    [
        (13, 6, 5, (1, 2)),
        (5, 3, 2, (1, 1)),
        (4, 3, 2, (0, 1)),
        (224, 7, 2, (2, 3)),
        (200, 3, 2, (0, 1)),
        (7, 2, 1, (0, 1)),
    ],
)
def test_same_padding_is_that_of_tensorflow(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    assert padding_amounts(size, kernel, stride=stride, padding="same") == padding


def windows(x: Tensor, kernel: int, stride: int, pads: tuple[int, int], fill: float) -> Tensor:
    """Cut out every window with its padding: [B, C, H', W', kernel * kernel]."""
    padded = F.pad(x, (*pads, *pads), value=fill)
    return padded.unfold(2, kernel, stride).unfold(3, kernel, stride).flatten(4)


POOLS = [(2, None, "valid"), (3, 2, "valid"), (3, 2, "same"), (2, 1, "same"), (3, 1, 1), (3, 2, "full"), (4, 3, 3)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
@pytest.mark.parametrize("size", [6, 7])
def test_pooling_takes_the_pixels_of_the_image_only(
    kernel: int, stride: int | None, padding: Padding, size: int
) -> None:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size)) - 5  # a zero would be the largest
    step = stride or kernel
    pads = padding_amounts(size, kernel, stride=step, padding=padding)
    cut = windows(x, kernel, step, pads, fill=torch.nan)
    assert torch.equal(max_pool(kernel, stride=stride, padding=padding)(x), cut.nan_to_num(-torch.inf).amax(-1))
    assert torch.equal(MinPool2d(kernel, stride=stride, padding=padding)(x), cut.nan_to_num(torch.inf).amin(-1))
    assert torch.allclose(average_pool(kernel, stride=stride, padding=padding)(x), cut.nanmean(-1), atol=1e-6)
    assert cut.shape[2] == output_size(size, kernel, stride=step, padding=padding)


def test_pooling_without_a_pixel_in_a_window_is_refused() -> None:
    with pytest.raises(UsageError, match=r"padding 2 .* 2x2 .*use 1 at most"):
        max_pool(2, padding=2)


def test_global_pooling() -> None:
    x = torch.randn(2, 3, 5, 7)
    average, largest = (
        build_stack(parse_stack("global-pool"), (3, 5, 7)),
        build_stack(parse_stack("global-pool max"), (3, 5, 7)),
    )
    assert torch.allclose(average(x), x.mean(dim=(2, 3), keepdim=True), atol=1e-6)
    assert torch.equal(largest(x), x.amax(dim=(2, 3), keepdim=True))


def test_a_convolution_with_uneven_same_padding() -> None:
    layer = convolution(3, 4, (3, 2), stride=2, padding="same")
    x = torch.randn(2, 3, 8, 7)
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.weight, layer.bias, stride=2)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert layer(x).shape == (2, 4, 4, 4)


def test_local_response_norm_is_the_papers_formula() -> None:
    x = torch.randn(2, 8, 3, 3) * 30
    expected = torch.empty_like(x)
    for channel in range(8):
        near = x[:, max(0, channel - 2) : channel + 3]
        expected[:, channel] = x[:, channel] / (2 + 1e-4 * (near**2).sum(dim=1)) ** 0.75
    assert torch.allclose(local_response_norm()(x), expected, rtol=1e-5)


def test_a_convolution_unit_has_no_bias_before_its_norm() -> None:
    x = torch.randn(4, 3, 8, 8)
    unit = convolution_unit(3, 5, 3)
    raw = F.conv2d(x, unit.conv.weight, padding=1)
    mean, variance = raw.mean(dim=(0, 2, 3), keepdim=True), raw.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
    assert torch.allclose(unit(x), ((raw - mean) / (variance + 1e-5).sqrt()).relu(), atol=1e-5)
    plain = convolution_unit(3, 5, 3, activation=False)
    assert torch.allclose(plain.norm(F.conv2d(x, plain.conv.weight, padding=1)), plain(x), atol=1e-6)


def test_a_separable_convolution_is_a_convolution_with_weights_of_rank_one() -> None:
    layer = separable_convolution(3, 6, 3, stride=2, dilation=2, padding="full")
    x = torch.randn(2, 3, 9, 9)
    across, each = layer.pointwise.weight[:, :, 0, 0], layer.depthwise.weight[:, 0]
    dense = across[:, :, None, None] * each[None]
    assert torch.allclose(
        layer(x), F.conv2d(x, dense, layer.pointwise.bias, stride=2, dilation=2, padding=4), atol=1e-5
    )
    assert sum(p.numel() for p in layer.parameters()) == 3 * 9 + 3 * 6 + 6


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Give a module the weights of one with the same tensors in the same order."""
    state = dict(zip(target.state_dict(), source.state_dict().values(), strict=True))
    target.load_state_dict(state)


def test_squeeze_excitation_is_that_of_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops")
    theirs, ours = ops.SqueezeExcitation(32, 8), SqueezeExcitation(32, reduction=4)
    copy_in_order(theirs, ours)
    x = torch.randn(2, 32, 5, 5)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize(("ins", "outs", "stride", "size"), [(8, 8, 1, 6), (8, 12, 1, 6), (8, 12, 2, 7), (8, 8, 2, 6)])
def test_a_residual_block_is_that_of_torchvision(ins: int, outs: int, stride: int, size: int) -> None:
    resnet = pytest.importorskip("torchvision.models.resnet")
    ours = ResidualBlock(ins, outs, stride=stride)
    changes = stride != 1 or ins != outs
    downsample = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs)) if changes else None
    theirs = resnet.BasicBlock(ins, outs, stride, downsample)
    copy_in_order(theirs, ours)
    x = torch.randn(4, ins, size, size)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_an_inception_block_has_googlenets_shares() -> None:
    googlenet = pytest.importorskip("torchvision.models.googlenet")
    ours, theirs = InceptionBlock(192, 256), googlenet.Inception(192, 64, 96, 128, 16, 32, 32)  # its block 3a
    assert [branch.state_dict()[key].shape[0] for branch, key in branches_of(ours)] == [64, 96, 128, 16, 32, 32]
    differs = {name for name, weight in theirs.state_dict().items() if weight.shape[-1:] == (3,)}
    assert len(differs) == 2  # torchvision has a 3x3 in place of the 5x5
    extra = 32 * 16 * (25 - 9)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + extra


def branches_of(block: InceptionBlock) -> list[tuple[nn.Module, str]]:
    return [
        (block.branch_1x1, "conv.weight"),
        (block.branch_3x3, "0.conv.weight"),
        (block.branch_3x3, "1.conv.weight"),
        (block.branch_5x5, "0.conv.weight"),
        (block.branch_5x5, "1.conv.weight"),
        (block.branch_pool, "1.conv.weight"),
    ]


def test_an_inception_block_puts_its_branches_one_after_another() -> None:
    block = InceptionBlock(6, 21).eval()  # without a multiple of eight the shares are rounded
    x = torch.randn(2, 6, 7, 9)

    def unit(x: Tensor, layer: nn.Module, padding: int) -> Tensor:
        return (F.conv2d(x, layer.conv.weight, padding=padding) / (1 + 1e-5) ** 0.5).relu()  # norm as it starts

    reduced = unit(x, block.branch_3x3[0], 0)
    expected = torch.cat(
        [
            unit(x, block.branch_1x1, 0),
            unit(reduced, block.branch_3x3[1], 1),
            unit(unit(x, block.branch_5x5[0], 0), block.branch_5x5[1], 2),
            unit(windows(x, 3, 1, (1, 1), fill=-torch.inf).amax(-1), block.branch_pool[1], 0),
        ],
        dim=1,
    )
    assert expected.shape == (2, 21, 7, 9)
    assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.parametrize("block", [InceptionBlock, ResidualBlock])
def test_without_batch_norms_a_block_is_what_it_is_with_those_that_change_nothing(
    block: Callable[..., nn.Module],
) -> None:
    without, with_norms = block(6, 16, norm=False), block(6, 16)
    for name, weight in without.state_dict().items():
        if name.endswith("conv.bias"):
            with_norms.get_parameter(name.replace("conv.bias", "norm.bias")).data = weight
        else:
            with_norms.get_parameter(name).data = weight * (1 + 1e-5) ** 0.5  # what the norm divides by as it starts
    x = torch.randn(2, 6, 7, 9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in without.modules())
    assert torch.allclose(without(x), with_norms.eval()(x), atol=1e-5)


def test_an_inception_block_of_too_few_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="7 channels has too few for its four branches; give it 8 or more"):
        InceptionBlock(3, 7)


BLOCKS = {
    "convolution": lambda: convolution(4, 8, 3, stride=2, padding="same"),
    "separable": lambda: separable_convolution(4, 8, 3, padding="same"),
    "squeeze-excitation": lambda: SqueezeExcitation(4, 2),
    "residual": lambda: ResidualBlock(4, 8),
    "inception": lambda: InceptionBlock(4, 16),
    "max-pool": lambda: max_pool(3, stride=2, padding="same"),
    "average-pool": lambda: average_pool(3, stride=2, padding="same"),
    "min-pool": lambda: MinPool2d(3, stride=2, padding="same"),
    "lrn": lambda: local_response_norm(),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_channels_last_gives_the_same_and_stays(name: str) -> None:
    block = BLOCKS[name]().eval()
    x = torch.randn(2, 4, 8, 8)
    expected = block(x)
    found = block.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
