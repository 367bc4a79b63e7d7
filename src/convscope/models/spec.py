"""What is known of a network before it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from convscope.config import Interpolation, Resize
from convscope.models.blocks import InputShape


@dataclass(frozen=True)
class PublishedPreprocessing:
    """What was done to the pictures on which a network's published weights were measured.

    Args:
        mean, std: of red, green and blue in units of 0..1; input = (pixel / 255 - mean) / std.
        image_size: side in pixels.
        crop_fraction: share of either side that is kept before resizing, the rest is cut away evenly all round.
        interpolation: filter that resizes, antialiased.
        resize: how a picture that is not square becomes so, as in DataConfig.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    resize: Resize = "crop"

    def statistics(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std for pictures of 3 channels, or for gray ones: the average of the three."""
        if channels == len(self.mean):
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),) * channels, (sum(self.std) / len(self.std),) * channels


@dataclass(frozen=True)
class ModelSpec:
    """A network by name.

    Args:
        build: takes (C, H, W) of a picture and the number of classes K; returns a module that maps float32
            [B, C, H, W] to logits [B, K].
        native_shape, native_classes: the input and number of classes its published parameter count is for.
        train: TrainConfig fields that suit this network, where they differ from the defaults.
        sized_input: whether pictures of other sources are brought to `native_shape` unless the user says otherwise;
            with trained weights they always are.
        preprocessing: what its published weights expect; None where there are none.
    """

    description: str
    build: Callable[[InputShape, int], nn.Module]
    native_shape: InputShape
    native_classes: int = 10
    train: Mapping[str, float | int | str] = field(default_factory=dict)
    sized_input: bool = False
    preprocessing: PublishedPreprocessing | None = None
