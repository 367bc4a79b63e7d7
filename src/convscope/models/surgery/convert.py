"""A network whose dense layers become convolutions, so that it takes images of any size and gives a map of scores.

The first dense layer sees whole feature maps of C x h x w values, so it becomes a convolution with a kernel of h x w.
Those after it see a vector, which is a 1x1 feature map, and become 1x1 convolutions. On an image of the original size
nothing changes; on a larger one the network gives scores [B, K, h', w'], one for each position of its window.

Source: Long et al., arXiv:1411.4038, section 3.1; Sermanet et al., arXiv:1312.6229, section 3.5.
"""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.eval_mode import eval_mode
from convscope.models.spec import InputShape
from convscope.models.surgery.stages import agree, find_stages, flat_layers


def to_convolutional(model: nn.Module, input_shape: InputShape) -> nn.Sequential:
    """Return the network in convolutional form, in evaluation mode, with weights of its own.

    It gives [B, K, 1, 1] for images of `input_shape` and [B, K, h, w] for larger ones. Adaptive pooling fits its
    windows to the image, which would undo this; it becomes pooling with the windows it has at the original size:
    none at all where it only passes its input on, as in VGG16, and for global pooling one that moves by a pixel.

    Zero padding at the image's border is seen by windows at the border only, so where there is any, the score of a
    window inside an image differs a little from that of the window cut out.

    Raises:
        UsageError: the network is not a chain of layers that all have a convolutional form.
    """
    try:
        stages = find_stages(model, input_shape)
    except UsageError as error:
        raise UsageError(
            f"a {type(model).__name__} is not a chain of layers that could become convolutional, as our own networks "
            "and AlexNet, VGG and ResNet are"
        ) from error
    device = next(model.parameters()).device
    x = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with eval_mode(model), torch.no_grad():
        expected = model(x)
        layers = [layer for _, module in stages for layer in flat_layers(module)]
        converted = nn.Sequential(*_converted(layers, x)).eval()
        scores = converted(x)
    if scores.shape[2:] != (1, 1) or not agree(scores.flatten(1), expected):
        raise UsageError(f"this {type(model).__name__} would compute something else in convolutional form")
    return converted


def _converted(layers: Iterable[nn.Module], x: Tensor) -> Iterator[nn.Module]:
    """Yield the convolutional form of the layers.

    Args:
        x: images that the layers are run on, to find the size of every feature map.
    """
    window = (1, 1)  # height and width of the feature map that the current vector was flattened from
    for layer in layers:
        seen, x = x, layer(x)
        if isinstance(layer, nn.Flatten):
            window = _size(seen) if seen.ndim == 4 else window
        elif isinstance(layer, nn.Linear):
            if seen.ndim != 2:
                raise UsageError("a dense layer that works on the columns of a feature map has no convolutional form")
            yield _dense_as_convolution(layer, window)
            window = (1, 1)
        elif isinstance(layer, nn.BatchNorm1d):
            yield _norm_as_2d(layer, window)
        elif isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            yield from _pooling_of_fixed_size(layer, _size(seen), _size(x))
        elif seen.ndim == 4 and x.ndim == 2:
            if not agree(x, seen.mean(dim=(2, 3))):
                raise UsageError(f"{type(layer).__name__} turns feature maps into a vector in a way that is not known")
            yield nn.AvgPool2d(_size(seen), stride=1)  # global pooling under a name of timm's
        else:
            yield copy.deepcopy(layer)


def _dense_as_convolution(layer: nn.Linear, window: tuple[int, int]) -> nn.Conv2d:
    """Return the convolution whose every window computes what the dense layer does: [O, C * h * w] as [O, C, h, w]."""
    height, width = window
    channels = layer.in_features // (height * width)
    with torch.device("meta"):
        convolution = nn.Conv2d(channels, layer.out_features, window, bias=layer.bias is not None)
    convolution.weight = nn.Parameter(layer.weight.detach().clone().view(-1, channels, height, width))
    if layer.bias is not None:
        convolution.bias = nn.Parameter(layer.bias.detach().clone())
    return convolution


def _norm_as_2d(norm: nn.BatchNorm1d, window: tuple[int, int]) -> nn.BatchNorm2d:
    if window != (1, 1):
        raise UsageError("batch norm between flatten and the first dense layer has another scale for every pixel")
    twin = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    twin.load_state_dict(norm.state_dict())
    return twin.to(norm.weight.device if norm.affine else None)


def _pooling_of_fixed_size(
    layer: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d, size: tuple[int, int], pooled: tuple[int, int]
) -> Iterator[nn.Module]:
    """Yield the pooling that equals adaptive pooling of feature maps of this size; nothing if it passes them on."""
    if size == pooled:
        return
    if size[0] % pooled[0] or size[1] % pooled[1]:
        raise UsageError(
            f"adaptive pooling from {size[0]}x{size[1]} to {pooled[0]}x{pooled[1]} has windows of several sizes, which "
            "has no convolutional form; use an --image-size at which they divide"
        )
    kernel = (size[0] // pooled[0], size[1] // pooled[1])
    stride = (1, 1) if pooled == (1, 1) else kernel
    yield nn.AvgPool2d(kernel, stride) if isinstance(layer, nn.AdaptiveAvgPool2d) else nn.MaxPool2d(kernel, stride)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]
