"""What every layer hands on while a network looks at pictures; hooks live in a `with` and change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from convscope.errors import UsageError, unknown_name

UNCHANGED = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Modules that hand on the numbers they get, outside of training."""
POOLING = (
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


@dataclass
class Layouts:
    """Shapes in which a network hands on maps: [B, C, H, W], or channels last as [B, H, W, C]."""

    channels_first: set[torch.Size] = field(default_factory=set)
    channels_last: set[torch.Size] = field(default_factory=set)

    def learn(self, module: nn.Module, output: Tensor) -> None:
        """Note the layout of maps that a module of known layout makes."""
        if output.ndim != 4:
            return
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
            self.channels_first.add(output.shape)
        elif isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:  # timm's subclass takes channels first
            self.channels_last.add(output.shape)


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Args:
        name: of the module; from its second call on with the number of the call, as in "relu (call 2)".
        output: as it left the module, before a later layer could change it in place; [B, ...].
        layouts: how the network lays out its maps, known when the whole of it has been called.
    """

    name: str
    module: nn.Module
    output: Tensor
    layouts: Layouts = field(default_factory=Layouts, repr=False)

    @property
    def kind(self) -> str:
        """Return the name of the module's class."""
        return type(self.module).__name__

    @property
    def is_maps(self) -> bool:
        """Whether the output is maps of more than one place."""
        return self.output.ndim == 4 and self.places[0] * self.places[1] > 1

    @property
    def is_channels_last(self) -> bool:
        """Whether the output is maps [B, H, W, C]: none but layers that work on the last axis make this shape."""
        shape = self.output.shape
        return shape in self.layouts.channels_last and shape not in self.layouts.channels_first

    @property
    def places(self) -> tuple[int, int]:
        """Return H and W of maps."""
        height, width = self.output.shape[1:3] if self.is_channels_last else self.output.shape[2:4]
        return height, width

    def channels_first(self, values: Tensor) -> Tensor:
        """Return values of the output's shape as [B, C, H, W], where they are maps; others as they are."""
        return values.permute(0, 3, 1, 2) if self.is_channels_last else values


@contextmanager
def recorded_calls(model: nn.Module, *, only: nn.Module | None = None) -> Iterator[list[Call]]:
    """Record the calls of all modules, or of `only` one of them, that make numbers of their own, in the order they end.

    A block that hands on what its last layer made is left out; one that adds or concatenates is not. The modules get
    copies, so in-place layers leave the record as it is; gradients pass from the copies to the record.
    """
    calls: list[Call] = []
    layouts = Layouts()
    handed_on: dict[int, tuple[Tensor, int]] = {}  # by id, kept alive so that none comes twice; version when handed on
    times: dict[str, int] = {}

    def hook(name: str, module: nn.Module, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
            return None
        if isinstance(module, UNCHANGED) or handed_on.get(id(output), (None, -1))[1] == output._version:
            return None
        times[name] = times.get(name, 0) + 1
        layouts.learn(module, output)
        calls.append(Call(name if times[name] == 1 else f"{name} (call {times[name]})", module, output, layouts))
        copy = output.clone()
        handed_on[id(copy)] = copy, copy._version
        return copy

    def hook_of(name: str) -> object:
        return lambda module, _, output: hook(name, module, output)

    modules = [(name or "network", module) for name, module in model.named_modules() if only in (None, module)]
    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def find_call(calls: Sequence[Call], layer: str) -> Call:
    """Return the call of this name, or the last one inside the block of this name.

    Raises:
        UsageError: there is none; lists the layers.
    """
    inside = [call for call in calls if call.name == layer or call.name.startswith((f"{layer}.", f"{layer} ("))]
    exact = [call for call in inside if call.name == layer]
    if not inside:
        raise unknown_name("layer", layer, (call.name for call in calls))
    return (exact or inside)[-1]


def last_maps(calls: Sequence[Call]) -> Call:
    """Return the last call whose output is maps, pooling left aside: there features are the richest and have a place.

    Raises:
        UsageError: the network has no maps, or does most of its work on tokens behind them.
    """
    for index, call in reversed(list(enumerate(calls))):
        if call.is_maps and not isinstance(call.module, POOLING):
            if 2 * sum(each.output.ndim == 3 for each in calls[index:]) > len(calls):
                raise UsageError(
                    f"behind layer {call.name!r} this network works on tokens, which it mixes over the whole picture; "
                    "occlusion says where the evidence lies"
                )
            return call
    raise UsageError("this network has no maps, only vectors, so nothing in it has a place in the picture")
