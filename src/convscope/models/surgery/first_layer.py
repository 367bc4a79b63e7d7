"""The layer that sees the image itself: changed from RGB to gray images or the other way round, or whitened."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.errors import UsageError

SMALLEST_VARIANCE = 5e-4
"""Added to the variance of every direction: those that hold no more than rounding are not blown up."""
CHUNK_VALUES = 2**22
"""Values of the patches that are in memory at a time."""


def set_input_channels(model: nn.Module, channels: int) -> None:
    """Change the input channels of the first layer in place, and keep what it computes.

    For one channel its weights are summed over red, green and blue: a normalized gray image gives what three equal
    channels gave. The other way each colour gets a third.

    Raises:
        UsageError: the first layer is not a plain convolution.
    """
    for name in first_layers(model):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        layer.weight = nn.Parameter(change_channels(layer.weight.detach(), channels))
        layer.in_channels = channels


def change_channels(weight: Tensor, channels: int) -> Tensor:
    """Return the weights [O, C, h, w] of a first layer for another number of channels, 1 or 3."""
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels


def first_layers(model: nn.Module) -> list[str]:
    """Return the names of the convolutions that see the image itself.

    Raises:
        UsageError: there are none.
    """
    published = getattr(model, "pretrained_cfg", {}).get("first_conv")
    names = [published] if isinstance(published, str) else list(published or ())
    modules = dict(model.named_modules())
    if not names:
        names = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)][:1]
    layers = [modules.get(name) for name in names]
    if not layers or not all(isinstance(layer, nn.Conv2d) and layer.in_channels in (1, 3) for layer in layers):
        raise UsageError("its first layer is not a convolution over the colours, so it takes RGB images only")
    return names


def whiten_first_layer(network: nn.Module, x: Tensor) -> None:
    """Compute the first convolution from the images instead of training it, in place, and freeze it, bias included.

    Neighbouring pixels are nearly equal, so most of what a first layer could learn is to take them apart. The main
    directions of the patches that it sees, each divided by its standard deviation, do that before the first step.

    A trainable bias would need the gradient of the largest feature maps at every step. With one, two epochs of `quick`
    on CIFAR-10 took 96 s and gave 78.2 % validation accuracy, without 85 s and 77.5 % (medians of 3 runs; one run).

    The first half of its channels are the strongest directions, with variance 1 and uncorrelated over the patches of x
    (where the layer has no padding); the second half are their negatives, because a ReLU cuts off either side.

    Args:
        x: images as the network takes them, float32 [N, C, H, W].

    Raises:
        UsageError: the network does not begin with one plain convolution, or it has more channels than there are
            directions either way.

    Source: T. Page, https://github.com/tysam-code/hlb-CIFAR10, and K. Jordan, arXiv:2404.00498, section 3.1; ours takes
    the patches' mean away as well, with the bias, and works with any number of channels.
    """
    names = first_layers(network)
    layer = network.get_submodule(names[0])
    assert isinstance(layer, nn.Conv2d)
    channels, size = layer.out_channels, layer.weight[0].numel()
    if len(names) > 1 or layer.groups > 1 or channels > 2 * size:
        raise UsageError(
            f"its first layer cannot be whitened: that takes one convolution with at most {2 * size} output channels, "
            f"two for each value of a patch, found {len(names)} with {channels}; leave out --whiten"
        )
    mean, covariance = _patch_statistics(layer, x)
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    half = -(-channels // 2)
    strongest = (directions / (variances + SMALLEST_VARIANCE).sqrt()).T.flip(0)[:half]
    weight = torch.cat([strongest, -strongest])[:channels]
    with torch.no_grad():
        layer.weight.copy_(weight.view(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(-(weight @ mean))
    layer.requires_grad_(False)


def _patch_statistics(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D] and the covariance [D, D] of the patches of D values that a layer sees, float64."""
    size = layer.weight[0].numel()
    total, squares, n = x.new_zeros(size, dtype=torch.float64), x.new_zeros(size, size, dtype=torch.float64), 0
    window = {"dilation": layer.dilation, "stride": layer.stride}
    num_patches = F.unfold(x[:1], layer.kernel_size, **window).shape[2]
    for chunk in torch.split(x, max(1, CHUNK_VALUES // (num_patches * size))):
        patches = F.unfold(chunk, layer.kernel_size, **window).transpose(0, 1).reshape(size, -1)
        total += patches.sum(1, dtype=torch.float64)
        squares += patches @ patches.T
        n += patches.shape[1]
    mean = total / n
    return mean, squares / n - mean.outer(mean)
