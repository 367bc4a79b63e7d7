"""The outputs of all layers during a forward pass; the hooks live in a `with` and do not change the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from convscope.errors import UsageError, unknown_name
from convscope.torch_internals import version

UNCHANGED = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Modules that return their input unchanged in evaluation mode."""
POOLING = (
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
CHANNELS_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.Upsample, *POOLING)
"""Modules whose input and output are [B, C, H, W]."""


@dataclass
class Shapes:
    """What a forward pass shows of a network's shapes.

    Args:
        image: B, H and W of the network's input.
        channels_last: shapes with four axes -> whether they are [B, H, W, C], not [B, C, H, W]; others are unknown.
        tokens: numbers of tokens in outputs [B, tokens, C].
    """

    image: tuple[int, int, int] = (0, 0, 0)
    channels_last: dict[torch.Size, bool] = field(default_factory=dict)
    tokens: set[int] = field(default_factory=set)

    def learn(self, module: nn.Module, x: object, output: Tensor) -> None:
        """Take note of what one call of a module shows."""
        if output.ndim == 3 and len(output) == self.image[0]:
            self.tokens.add(output.shape[1])
        elif output.ndim == 4 and isinstance(module, CHANNELS_FIRST):
            for tensor in (x, output):
                if isinstance(tensor, Tensor) and tensor.ndim == 4:
                    self.channels_last[tensor.shape] = False
        elif output.ndim == 4 and (isinstance(module, nn.Linear) or type(module) is nn.LayerNorm):
            self.channels_last.setdefault(output.shape, True)  # timm's subclass of LayerNorm has channels first


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Args:
        name: of the module; with the number of the call from the second on, as in "relu (call 2)".
        output: [B, ...], copied before a later layer could change it in place.
        seen: what is known of the network's shapes; complete after the forward pass.
    """

    name: str
    module: nn.Module
    output: Tensor
    seen: Shapes = field(repr=False)

    @property
    def kind(self) -> str:
        """Return the name of the module's class."""
        return type(self.module).__name__

    @property
    def is_feature_maps(self) -> bool:
        """Whether the output is feature maps of more than one place.

        Four axes are not enough: attention has [B, heads, tokens, tokens], windows have [B * windows, H, W, C]. The
        axis of the channels must be known, and height to width must be as in the image: up to the pixel that padding
        adds, and up to a factor of two for convolutions, which may do without padding.
        """
        if self.output.ndim != 4 or self.output.shape not in self.seen.channels_last:
            return False
        images, rows, columns = self.seen.image
        height, width = self.places
        tall, wide = height * columns, width * rows
        slack = max(rows, columns) if self.is_channels_last else max(tall, wide) / 2
        as_tokens = self.is_channels_last and height in self.seen.tokens  # [B, tokens, tokens, heads]
        return len(self.output) == images and height * width > 1 and abs(tall - wide) <= slack and not as_tokens

    @property
    def is_vector(self) -> bool:
        """Whether the output is one vector for each image, perhaps with a place of its own, as after pooling."""
        return self.output.ndim == 2 or (self.output.ndim == 4 and self.output[0].numel() == max(self.output.shape[1:]))

    @property
    def is_channels_last(self) -> bool:
        """Whether the output is feature maps [B, H, W, C]: only layers that act on the last axis have this shape."""
        return self.seen.channels_last.get(self.output.shape, False)

    @property
    def places(self) -> tuple[int, int]:
        """Return H and W of feature maps."""
        height, width = self.output.shape[1:3] if self.is_channels_last else self.output.shape[2:4]
        return height, width

    def channels_first(self, values: Tensor) -> Tensor:
        """Return values of the output's shape with the channels before H and W."""
        return values.permute(0, 3, 1, 2) if self.is_channels_last else values


@contextmanager
def recorded_calls(model: nn.Module, *, only: nn.Module | None = None) -> Iterator[list[Call]]:
    """Record the calls of all modules, or of `only` one module, that compute something, in the order they end.

    A block that returns the output of its last layer is not recorded; a block that adds or concatenates is. Later
    modules get copies, so in-place layers do not change the record. Gradients flow from the copies to the record.
    """
    calls: list[Call] = []
    seen = Shapes()
    passed_on: dict[int, tuple[Tensor, int]] = {}  # by id, kept alive so that ids stay unique; with the version then
    times: dict[str, int] = {}

    def enter(_: nn.Module, inputs: tuple[object, ...]) -> None:
        if isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            seen.image = len(inputs[0]), inputs[0].shape[2], inputs[0].shape[3]

    def hook(name: str, module: nn.Module, x: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
            return None
        if isinstance(module, UNCHANGED) or passed_on.get(id(output), (None, -1))[1] == version(output):
            return None
        times[name] = times.get(name, 0) + 1
        seen.learn(module, x, output)
        calls.append(Call(name if times[name] == 1 else f"{name} (call {times[name]})", module, output, seen))
        copy = output.clone()
        passed_on[id(copy)] = copy, version(copy)
        return copy

    def hook_of(name: str) -> object:
        return lambda module, inputs, output: hook(name, module, inputs[0] if inputs else None, output)

    modules = [(name or "network", module) for name, module in model.named_modules() if only in (None, module)]
    handles = [model.register_forward_pre_hook(enter)]
    handles += [module.register_forward_hook(hook_of(name)) for name, module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def find_call(calls: Sequence[Call], layer: str) -> Call:
    """Return the call of this name, or the last call inside the block of this name.

    Raises:
        UsageError: the name is unknown; the message lists the layers.
    """
    inside = [call for call in calls if call.name == layer or call.name.startswith((f"{layer}.", f"{layer} ("))]
    exact = [call for call in inside if call.name == layer]
    if not inside:
        raise unknown_name("layer", layer, (call.name for call in calls))
    return (exact or inside)[-1]


def last_feature_maps(calls: Sequence[Call]) -> Call:
    """Return the last call with feature maps, except pooling: the richest features that still have a place.

    Raises:
        UsageError: the network has no feature maps, or works mostly on tokens after them.
    """
    for index, call in reversed(list(enumerate(calls))):
        if call.is_feature_maps and not isinstance(call.module, POOLING):
            if 2 * sum(each.output.ndim == 3 for each in calls[index:]) > len(calls):
                raise UsageError(
                    f"after layer {call.name!r} this network works on tokens, which it mixes over the whole image; "
                    "occlusion shows which places matter"
                )
            return call
    raise UsageError("this network has vectors but no feature maps, so its features have no place in the image")
