"""How numbers become pictures: maps side by side, heat over a picture. White is zero, warm positive, blue negative."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

POSITIVE, NEGATIVE, GAP = (184, 72, 15), (27, 94, 158), (245, 246, 248)
"""RGB; the first two differ for the colour-blind too, and in print by the caption's range."""
MAX_LARGE_PX = 400
"""Longest side of an embedded picture of maps, in pixels."""
LEAST_HEAT_PX = 224
"""A small picture is enlarged to about this before heat is laid over it, so that the heat stays smooth."""
HEAT_OPACITY = 0.75
Picture = tuple[str, int]
"""A PNG as a data URI, and its longest side in pixels."""


def png_uri(image: Image.Image) -> str:
    """Return the data URI of a PNG."""
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def encode_maps(maps: NDArray[np.float32]) -> Picture:
    """Return maps, float32 [M, H, W] or colours [M, H, W, 3], side by side in about a square, a gap between them."""
    colours = _diverging(maps) if maps.ndim == 3 else np.round(255 * np.clip(maps, 0, 1)).astype(np.uint8)
    number, height, width, _ = colours.shape
    gap = 1 if max(height, width) < 32 else 2
    columns = min(number, max(1, round(np.sqrt(number * (height + gap) / (width + gap)))))
    rows = -(-number // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), GAP, np.uint8)
    for index, picture in enumerate(colours):
        top, left = (at * (side + gap) for at, side in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet)
    image.thumbnail((MAX_LARGE_PX, MAX_LARGE_PX))
    return png_uri(image), max(image.size)


def encode_heat(picture: NDArray[np.uint8], heat: NDArray[np.float32] | None) -> Picture:
    """Return a picture, uint8 [H, W, C], with heat [h, w] over a pale gray copy of it; without, as it is."""
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    enlargement = -(-LEAST_HEAT_PX // max(image.size))
    image = image.resize((image.width * enlargement, image.height * enlargement), Image.Resampling.NEAREST)
    image.thumbnail((MAX_LARGE_PX, MAX_LARGE_PX))
    if heat is None:
        return png_uri(image), max(image.size)
    under = 127.5 + np.asarray(image.convert("L"), np.float32)[..., None] / 2
    largest = float(np.abs(heat).max()) or 1.0
    smooth = np.asarray(
        Image.fromarray((heat / largest).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    )
    strength = HEAT_OPACITY * np.abs(smooth)[..., None]
    colour = np.where(smooth[..., None] > 0, np.array(POSITIVE, np.float32), np.array(NEGATIVE, np.float32))
    blended = np.round((1 - strength) * under + strength * colour).astype(np.uint8)
    return png_uri(Image.fromarray(blended)), max(image.size)


def _diverging(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return colours, uint8 [..., 3]: white for zero, full colour for the largest size; a gap's colour for NaN."""
    known = np.isfinite(values)
    scaled = np.where(known, values, 0) / (float(np.abs(values[known]).max(initial=0)) or 1.0)
    ink = np.where(scaled[..., None] > 0, np.array(POSITIVE), np.array(NEGATIVE))
    colours = 255 + np.abs(scaled)[..., None] * (ink - 255.0)
    return np.where(known[..., None], np.round(colours), np.array(GAP)).astype(np.uint8)
