"""How an image of any shape becomes a square of one size."""

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.config import DataConfig, Interpolation, Resize
from convscope.schema import Range

DEFAULT_IMAGE_SIZE = 64
"""Side in pixels of an image that does not keep its own size, where none is asked for."""

MAX_SIDE = 10_000
"""Longest side in pixels that a model file may ask for: its square has the pixels of the largest image we decode."""

MAX_OWN_SIZE = 96
"""Square images keep their own size up to this side in pixels, where none is asked for."""

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """How an image becomes the square that the network takes; the fields are those of DataConfig.

    First an edge of the same share on all sides is cut away (`crop_fraction`), then the longer side is cut to a square
    (`crop`) or the aspect ratio given up (`squash`), in one step with the resizing to `image_size` pixels; None keeps
    the shorter side. Gray is ITU-R 601 luma, taken before resizing. The filter is Pillow's, antialiased: its support
    grows with the reduction.
    """

    image_size: Annotated[int, Range(1, MAX_SIDE)] | None
    gray: bool
    resize: Resize = "crop"
    crop_fraction: Annotated[float, Range(above=0, most=1)] = 1.0
    interpolation: Interpolation = "bilinear"


def resizing_of(config: DataConfig) -> Resizing:
    """Return how the images of a data set are resized."""
    return Resizing(**{field.name: getattr(config, field.name) for field in fields(Resizing)})


def default_size(height: int, width: int) -> int:
    """Return the side in pixels that an image gets when none is asked for."""
    return width if width == height <= MAX_OWN_SIZE else DEFAULT_IMAGE_SIZE


def resize_image(image: NDArray[np.uint8], resizing: Resizing) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 1 or 3], as a square, uint8 [S, S, 1 or 3]."""
    flat = to_pillow(image)
    if not resizing.gray and flat.mode == "L":
        flat = flat.convert("RGB")
    return from_pillow(resize_pillow(flat, resizing))


def resize_pillow(image: Image.Image, resizing: Resizing) -> Image.Image:
    """Return an image in mode L or RGB as a square; it becomes gray where gray is asked for."""
    if resizing.gray and image.mode != "L":
        image = image.convert("L")
    width, height = image.size
    side = min(width, height)
    size = resizing.image_size or side
    if width == height == size and resizing.crop_fraction == 1:
        return image
    box_width: float
    box_height: float
    box_width, box_height = (side, side) if resizing.resize == "crop" else (width, height)
    if resizing.crop_fraction == 1:
        left: float = (width - box_width) // 2  # whole pixels: what is only cut out stays as sharp as it was
        top: float = (height - box_height) // 2
    else:
        box_width, box_height = (length * resizing.crop_fraction for length in (box_width, box_height))
        left, top = (width - box_width) / 2, (height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return image.resize((size, size), _FILTERS[resizing.interpolation], box=box)


def to_pillow(image: NDArray[np.uint8]) -> Image.Image:
    """Return an image, uint8 [H, W, 1 or 3], in Pillow's form: mode L or RGB."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """Return uint8 [H, W, C], C 1 for mode L and 3 for RGB."""
    shape = (image.height, image.width, len(image.getbands()))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape).copy()  # twice as fast as np.array on tiny images
