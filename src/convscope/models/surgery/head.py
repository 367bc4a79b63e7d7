"""The last layer of a network: finding it, training it alone, splitting it off, and replacing it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.spec import InputShape
from convscope.models.stack.blocks import flattened_size
from convscope.torch_internals import shallow_copy

SMALLEST = 1e-6
"""Added under the square root, whose slope is infinite at 0: training below it would diverge."""


def find_head(model: nn.Module) -> str:
    """Return the name of the last layer, whose outputs are the logits.

    Raises:
        UsageError: there are several, whose outputs are averaged, or none.
    """
    published = getattr(model, "pretrained_cfg", {}).get("classifier")
    if isinstance(published, tuple | list):
        raise UsageError(f"this network has {len(published)} heads ({', '.join(published)}), and one is expected")
    modules = dict(model.named_modules())
    if published in modules and not isinstance(modules[published], nn.Identity):
        return str(published)
    names: list[str] = [name for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not names:
        raise UsageError("this network has no layer with weights")
    return names[-1]


def find_dense_head(network: nn.Module) -> nn.Linear | None:
    """Return the dense layer that a network ends in, None if it ends in something else."""
    try:
        layer = network.get_submodule(find_head(network))
    except UsageError:
        return None
    return layer if isinstance(layer, nn.Linear) else None


def freeze_all_but_head(model: nn.Module) -> None:
    """Freeze all layers but the last, in place."""
    model.requires_grad_(False)
    model.get_submodule(find_head(model)).requires_grad_(True)


def split_backbone(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return (backbone, head): features [B, F] from images, and logits [B, K] from features.

    Both share their weights with the network: training one trains the other. head(backbone(x)) is model(x).

    Raises:
        UsageError: the network does not end in one dense layer.
    """
    name = find_head(model)
    head = model.get_submodule(name)
    if isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1) and hasattr(model, "pretrained_cfg"):
        return _with_replaced(model, name, nn.Identity()), ConvolutionOnVector(head)
    if not isinstance(head, nn.Linear):
        raise UsageError(
            f"the last layer {name!r} is {type(head).__name__}, not a dense layer on features; use another --model"
        )
    if isinstance(model, nn.Sequential) and "." not in name:
        layers = list(model)
        at = next(index for index, layer in enumerate(layers) if layer is head)
        rest = layers[at:]
        return nn.Sequential(*layers[:at]), rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    return _with_replaced(model, name, nn.Identity()), head


class ConvolutionOnVector(nn.Module):
    """A dense layer that timm writes as a 1x1 convolution on a 1x1 map."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] from features [B, F]."""
        logits: Tensor = self.convolution(features[:, :, None, None])
        return logits.flatten(1)


def _with_replaced(model: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """Return the network with one module replaced; the others are shared, and the original does not change."""
    clone = shallow_copy(model)
    child, _, rest = name.partition(".")
    setattr(clone, child, _with_replaced(getattr(clone, child), rest, replacement) if rest else replacement)
    return clone


class SquareRootLinear(nn.Linear):
    """A dense layer on the signed square roots of its inputs: weight @ (sign(x) * sqrt(abs(x))) + bias.

    Averages over ReLU outputs are many small values and a few large ones; a linear layer separates their roots better.

    Source: Perronnin, Sánchez, Mensink, "Improving the Fisher kernel for large-scale image classification", 2010.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] from features [B, F]."""
        return super().forward(features.sign() * (features.abs() + SMALLEST).sqrt())


def set_square_root_head(network: nn.Module) -> nn.Module:
    """Put square roots before the last layer, which keeps its weights and name, in place; return the network.

    Raises:
        UsageError: it does not end in one dense layer.
    """
    name = find_head(network)
    layer = network.get_submodule(name)
    if type(layer) is not nn.Linear:
        raise UsageError(
            f"the last layer {name!r} is {type(layer).__name__}, not a dense layer; leave out --head square-root"
        )
    with torch.device("meta"):
        head = SquareRootLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    head.weight, head.bias = layer.weight, layer.bias
    network.set_submodule(name, head)
    return network


def set_flattened_head(network: nn.Module, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Put one dense layer on the flattened feature maps in place of all dense layers, in place; return the network.

    Raises:
        UsageError: it is not built like AlexNet and VGG of torchvision: features, pooling, several dense layers.
    """
    features, dense = (getattr(network, name, None) for name in ("features", "classifier"))
    layers = list(dense) if isinstance(dense, nn.Sequential) else []
    if not isinstance(features, nn.Sequential) or sum(isinstance(layer, nn.Linear) for layer in layers) < 2:
        raise UsageError(
            f"a {type(network).__name__} does not end in several dense layers as torchvision's alexnet and vgg16 do; "
            "leave out --head flatten"
        )
    with next(network.parameters()).device:
        head = nn.Linear(flattened_size(features, input_shape), num_classes)
    network.set_submodule("avgpool", nn.Identity())  # which brought feature maps of all sizes to one
    network.set_submodule("classifier", nn.Sequential(head))
    return network


def multiplied(layer: nn.Linear, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a head multiplies with its weights: the features, or their signed square roots."""
    if not isinstance(layer, SquareRootLinear):
        return features
    return np.sign(features) * np.sqrt(np.abs(features) + np.float32(SMALLEST))
