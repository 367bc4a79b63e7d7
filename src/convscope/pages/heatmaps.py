"""Feature maps and heat maps as images. White is zero, warm is positive, blue is negative."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

POSITIVE, NEGATIVE, GAP = (184, 72, 15), (27, 94, 158), (245, 246, 248)
"""RGB. The first two differ for colour-blind readers too; in print the caption gives the range."""
MAX_LARGE_PX, MANY_LARGE_PX = 400, 1000
"""Longest side of an embedded image; the second for more than MANY feature maps, which get the page's width."""
MANY = 64
MIN_HEAT_PX = 224
"""A smaller image is enlarged to about this size, so that the heat map over it is smooth."""
HEAT_OPACITY = 0.75
BAR_PX = (224, 24)
"""Width and height of the bar of a heat map's colours."""
SMALL_IMAGE_PX = 100
"""Smaller images are enlarged pixel by pixel; larger ones are photos, and the browser smooths them."""
PHOTO_QUALITY = 85
"""Of a JPEG: a photo takes a fifth of its PNG size and looks the same on the page."""
LEVELS = 127
"""Shades of each colour; with white and the gap they fit into one byte per pixel."""
Pixels = tuple[str, int]
"""An image as a data URI, and its longest side in pixels."""


def image_uri(image: Image.Image) -> str:
    """Return the data URI of an image: a PNG if it is small or has a palette, otherwise a JPEG."""
    content = io.BytesIO()
    kind = "png" if image.mode == "P" or max(image.size) < SMALL_IMAGE_PX else "jpeg"
    image.save(content, kind, optimize=True, **({"quality": PHOTO_QUALITY} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def encode_maps(maps: NDArray[np.float32]) -> Pixels:
    """Return feature maps, float32 [M, H, W] or colours [M, H, W, 3], as a sheet of tiles that is about square."""
    number, height, width = maps.shape[:3]
    gap = 1 if max(height, width) < 32 else 2
    columns = min(number, max(1, round(np.sqrt(number * (height + gap) / (width + gap)))))
    rows = -(-number // columns)
    most_px = MANY_LARGE_PX if number > MANY else MAX_LARGE_PX
    scale = most_px / max(rows * (height + gap), columns * (width + gap))
    if scale < 1:
        maps = _shrunk(maps, max(1, int(scale * (height + gap)) - gap), max(1, int(scale * (width + gap)) - gap))
        height, width = maps.shape[1:3]
    tiles, empty = (_levels(maps), 0) if maps.ndim == 3 else (np.round(255 * np.clip(maps, 0, 1)).astype(np.uint8), GAP)
    sheet = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles.shape[3:]), np.uint8)
    sheet[:] = empty
    for index, tile in enumerate(tiles):
        top, left = (at * (side + gap) for at, side in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = tile
    image = Image.fromarray(sheet)
    if sheet.ndim == 2:
        image.putpalette(_palette().tobytes())
    return image_uri(image), max(image.size)


def encode_heat(
    pixels: NDArray[np.uint8], heat: NDArray[np.float32] | None, *, full_colour: float | None = None
) -> Pixels:
    """Return an image, uint8 [H, W, C], in pale gray under a heat map [h, w]; without one, unchanged.

    Args:
        full_colour: absolute value from which on the colour is full; None: the largest.
    """
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    enlargement = -(-MIN_HEAT_PX // max(image.size))
    image = image.resize((image.width * enlargement, image.height * enlargement), Image.Resampling.NEAREST)
    image.thumbnail((MAX_LARGE_PX, MAX_LARGE_PX))
    if heat is None:
        return image_uri(image), max(image.size)
    under = (127.5 + np.asarray(image.convert("L"), np.float32)[..., None] / 2).astype(np.float32)
    scaled = np.clip(heat / (full_colour or float(np.abs(heat).max()) or 1.0), -1, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(scaled).resize(image.size, Image.Resampling.BILINEAR))
    return image_uri(Image.fromarray(_tinted(under, smooth))), max(image.size)


def encode_bar(*, signed: bool) -> Pixels:
    """Return a bar of all colours of a heat map over white: from none, or where `signed` from full blue, to full."""
    scaled = np.tile(np.linspace(-1 if signed else 0, 1, BAR_PX[0], dtype=np.float32), (BAR_PX[1], 1))
    return image_uri(Image.fromarray(_tinted(np.full((*scaled.shape, 1), 255, np.float32), scaled))), BAR_PX[0]


def _tinted(under: NDArray[np.float32], scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return gray pixels [H, W, 1] of 0..255 under the colours of values [H, W] of -1..1, uint8 [H, W, 3]."""
    strength = HEAT_OPACITY * np.abs(scaled)[..., None]
    colour = np.where(scaled[..., None] > 0, np.array(POSITIVE, np.float32), np.array(NEGATIVE, np.float32))
    return np.round((1 - strength) * under + strength * colour).astype(np.uint8)


def _shrunk(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return maps [M, H, W] or [M, H, W, 3] scaled down by averaging."""
    planes = np.moveaxis(maps, 3, 1).reshape(-1, *maps.shape[1:3]) if maps.ndim == 4 else maps
    box = Image.Resampling.BOX
    small = np.stack([np.asarray(Image.fromarray(plane).resize((width, height), box)) for plane in planes])
    return np.moveaxis(small.reshape(len(maps), -1, height, width), 1, 3) if maps.ndim == 4 else small


def _levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the index in `_palette` of each value, scaled by the largest absolute value; NaN is the gap."""
    known = np.isfinite(values)
    largest = float(np.abs(values[known]).max(initial=0)) or 1.0
    return np.where(known, np.round(LEVELS * np.where(known, values, 0) / largest) + LEVELS + 1, 0).astype(np.uint8)


def _palette() -> NDArray[np.uint8]:
    """Return colours, uint8 [256, 3]: the gap, then from blue over white to the warm colour."""
    scaled = np.arange(-LEVELS, LEVELS + 1)[:, None] / LEVELS
    ink = np.where(scaled > 0, np.array(POSITIVE), np.array(NEGATIVE))
    return np.vstack([[GAP], np.round(255 + np.abs(scaled) * (ink - 255.0))]).astype(np.uint8)
