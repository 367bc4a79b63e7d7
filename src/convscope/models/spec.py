"""The description of a network, known before it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from convscope.config import Interpolation, Resize

InputShape = tuple[int, int, int]
"""(C, H, W) of one image."""


@dataclass(frozen=True)
class PublishedPreprocessing:
    """The preprocessing of the images on which a network's published weights were measured.

    Args:
        mean, std: of red, green and blue in units of 0..1; input = (pixel / 255 - mean) / std.
        image_size: side in pixels.
        crop_fraction: fraction of either side that is kept before resizing; the centre is kept.
        interpolation: filter for resizing, antialiased.
        resize: how an image is made square, as in DataConfig.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    resize: Resize = "crop"

    def statistics(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std for images of 3 channels, or for gray ones: the average of the three."""
        if channels == len(self.mean):
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),) * channels, (sum(self.std) / len(self.std),) * channels


@dataclass(frozen=True)
class ModelSpec:
    """A network by name.

    Args:
        build: takes (C, H, W) of an image and the number of classes K; returns a module that maps float32
            [B, C, H, W] to logits [B, K].
        native_shape, native_classes: the input and number of classes its published parameter count is for.
        train: TrainConfig fields that suit this network, where they differ from the defaults.
        sized_input: whether images of other sources are brought to `native_shape` unless the user says otherwise;
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
