"""The layer that sees the picture itself: how it takes gray pictures instead of RGB, or the other way."""

from __future__ import annotations

from torch import Tensor, nn

from convscope.errors import UsageError


def set_input_channels(model: nn.Module, channels: int) -> None:
    """Change in place how many channels the first layer takes, keeping what it computes.

    For one channel its weights are summed over red, green and blue: a normalized gray picture gives what three equal
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
    """Return the names of the convolutions that see the picture itself.

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
        raise UsageError("its first layer is no convolution over the colours, so it takes RGB pictures only")
    return names
