"""How numbers become pictures: maps side by side, heat over a picture. White is zero, warm positive, blue negative."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

POSITIVE, NEGATIVE, GAP = (184, 72, 15), (27, 94, 158), (245, 246, 248)
"""RGB; the first two differ for the colour-blind too, and in print by the caption's range."""
MAX_LARGE_PX, MANY_LARGE_PX = 400, 1000
"""Longest side of an embedded picture of maps, in pixels; of one with more than MANY, which has the page's width."""
MANY = 64
LEAST_HEAT_PX = 224
"""A small picture is enlarged to about this before heat is laid over it, so that the heat stays smooth."""
HEAT_OPACITY = 0.75
SMALL_PICTURE_PX = 100
"""Pictures below this are enlarged pixel by pixel; larger ones are photos and are smoothed."""
PHOTO_QUALITY = 85
"""Of a JPEG; a photo takes a fifth of its PNG, and at its size on the page the two look the same."""
LEVELS = 127
"""Shades of either colour of a picture of maps: with white and the gap they fit into one byte a pixel."""
Picture = tuple[str, int]
"""A picture as a data URI, and its longest side in pixels."""


def picture_uri(image: Image.Image) -> str:
    """Return the data URI of a picture: a small one as it is, as a PNG, a photo as a JPEG."""
    content = io.BytesIO()
    if image.mode == "P" or max(image.size) < SMALL_PICTURE_PX:
        image.save(content, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    image.save(content, "JPEG", quality=PHOTO_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def encode_maps(maps: NDArray[np.float32]) -> Picture:
    """Return maps, float32 [M, H, W] or colours [M, H, W, 3], side by side in about a square, a gap between them."""
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
    return picture_uri(image), max(image.size)


def encode_heat(picture: NDArray[np.uint8], heat: NDArray[np.float32] | None) -> Picture:
    """Return a picture, uint8 [H, W, C], with heat [h, w] over a pale gray copy of it; without, as it is."""
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    enlargement = -(-LEAST_HEAT_PX // max(image.size))
    image = image.resize((image.width * enlargement, image.height * enlargement), Image.Resampling.NEAREST)
    image.thumbnail((MAX_LARGE_PX, MAX_LARGE_PX))
    if heat is None:
        return picture_uri(image), max(image.size)
    under = 127.5 + np.asarray(image.convert("L"), np.float32)[..., None] / 2
    largest = float(np.abs(heat).max()) or 1.0
    smooth = np.asarray(
        Image.fromarray((heat / largest).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    )
    strength = HEAT_OPACITY * np.abs(smooth)[..., None]
    colour = np.where(smooth[..., None] > 0, np.array(POSITIVE, np.float32), np.array(NEGATIVE, np.float32))
    blended = np.round((1 - strength) * under + strength * colour).astype(np.uint8)
    return picture_uri(Image.fromarray(blended)), max(image.size)


def _shrunk(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return maps [M, H, W] or [M, H, W, 3] of another size, each place the mean of those it stands for."""
    planes = np.moveaxis(maps, 3, 1).reshape(-1, *maps.shape[1:3]) if maps.ndim == 4 else maps
    box = Image.Resampling.BOX
    small = np.stack([np.asarray(Image.fromarray(plane).resize((width, height), box)) for plane in planes])
    return np.moveaxis(small.reshape(len(maps), -1, height, width), 1, 3) if maps.ndim == 4 else small


def _levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return which colour of `_palette` each value has: full colour for the largest size; a gap's for NaN."""
    known = np.isfinite(values)
    largest = float(np.abs(values[known]).max(initial=0)) or 1.0
    return np.where(known, np.round(LEVELS * np.where(known, values, 0) / largest) + LEVELS + 1, 0).astype(np.uint8)


def _palette() -> NDArray[np.uint8]:
    """Return colours, uint8 [256, 3]: a gap's, then blue over white to the warm one."""
    scaled = np.arange(-LEVELS, LEVELS + 1)[:, None] / LEVELS
    ink = np.where(scaled > 0, np.array(POSITIVE), np.array(NEGATIVE))
    return np.vstack([[GAP], np.round(255 + np.abs(scaled) * (ink - 255.0))]).astype(np.uint8)
