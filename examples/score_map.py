"""Train `cnn` on mnist5k, make it convolutional and draw what it says at every place of a canvas with several digits.

    python examples/score_map.py [IMAGE.png]

Needs no network. docs/dense-to-convolution.md shows the image.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import convscope
from convscope.config import DataConfig
from convscope.data.load import load_images
from convscope.models.saved import SavedModel, load_model
from convscope.models.surgery.convert import to_convolutional

SIDE = 28
STRIDE = 4  # two poolings by 2
PLACES = ((8, 8), (40, 60), (4, 112), (60, 12), (60, 116), (8, 164), (56, 176))  # of the digits 0 to 6: row, column
CANVAS = (92, 208)
INK, PAPER, BLUE, FRAME, MARK = (11, 11, 11), (252, 252, 251), (24, 79, 149), (200, 200, 196), (235, 104, 52)


def main(image: Path, epochs: int = 10) -> None:
    """Train, convert, check, draw."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = convscope.train("mnist5k", model="cnn", epochs=epochs, augment=("crop", "zoom"), out=run, report=False)
        saved = load_model(run)
    network = to_convolutional(saved.network, saved.input_shape)
    canvas = compose_canvas()
    with torch.no_grad():
        digit = normalized(canvas, saved)[..., : SIDE + 8, : SIDE + 8]
        alone = digit[..., 4 : 4 + SIDE, 8 : 8 + SIDE]
        difference = (network(alone).flatten() - saved.network(alone).flatten()).abs().max()
        scores = network(normalized(canvas, saved))[0]
    probabilities = scores.softmax(dim=0).numpy()
    print(
        f"accuracy {result.accuracy.value:.1%} of {result.accuracy.n}; {tuple(canvas.shape)} -> {tuple(scores.shape)}"
    )
    print(f"largest difference on an image of the original size: {difference:.1e}")
    own = [probabilities[:, row // STRIDE, column // STRIDE] for row, column in PLACES]
    print("each digit in its own window:", ", ".join(f"{k} as {p.argmax()} ({p.max():.2f})" for k, p in enumerate(own)))
    draw_maps(canvas, probabilities).save(image, optimize=True)


def compose_canvas() -> NDArray[np.uint8]:
    """Return test digits of classes 0 to 6 on black, uint8 [H, W]; the network has not seen them."""
    images = load_images(DataConfig(source="mnist5k"))
    test = np.flatnonzero(np.array(images.source_splits) == "test")
    canvas = np.zeros(CANVAS, np.uint8)
    for label, (top, left) in enumerate(PLACES):
        index = test[images.labels[test] == label][0]
        canvas[top : top + SIDE, left : left + SIDE] = images.images[index, :, :, 0]
    return canvas


def normalized(canvas: NDArray[np.uint8], saved: SavedModel) -> torch.Tensor:
    """Return the canvas as the network's input, float32 [1, 1, H, W]."""
    x = torch.from_numpy(canvas / np.float32(255))
    return ((x - saved.mean[0]) / saved.std[0])[None, None]


def draw_maps(canvas: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Image.Image:
    """Return the canvas above one map a class: the darker, the more probable is that class in the window there.

    A frame marks the one place in each map whose window is exactly where the digit of that class lies.
    """
    scale, pixel, gap, line, font = 3, 6, 16, 18, ImageFont.load_default(14)
    height, width = CANVAS[0] * scale, CANVAS[1] * scale
    _, rows, columns = probabilities.shape
    left_of, top_of = (gap, gap + width - columns * pixel), height + 2 * gap
    page = Image.new("RGB", (width + 2 * gap, top_of + 5 * (rows * pixel + line + gap)), PAPER)
    pen = ImageDraw.Draw(page)
    page.paste(Image.fromarray(255 - canvas).resize((width, height), Image.Resampling.NEAREST), (gap, gap))
    pen.rectangle((gap - 1, gap - 1, gap + width, gap + height), outline=FRAME)
    for label, values in enumerate(probabilities):
        left, top = left_of[label % 2], top_of + label // 2 * (rows * pixel + line + gap) + line
        pen.text((left, top - line), f"probability of {label}", fill=INK, font=font)
        shade = np.rint(values[..., None] * (np.array(BLUE) - 255.0) + 255).astype(np.uint8)
        tile = Image.fromarray(shade).resize((columns * pixel, rows * pixel), Image.Resampling.NEAREST)
        page.paste(tile, (left, top))
        pen.rectangle((left - 1, top - 1, left + columns * pixel, top + rows * pixel), outline=FRAME)
        if label < len(PLACES):
            row, column = (place // STRIDE * pixel for place in PLACES[label])
            box = (left + column - 1, top + row - 1, left + column + pixel, top + row + pixel)
            pen.rectangle(box, outline=MARK, width=2)
    return page.quantize(64, method=Image.Quantize.FASTOCTREE)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("score-map.png"))
