"""Train on a folder of your own images, see how sure the result is, and let it name new images.

    python examples/train_your_own.py [FOLDER]

FOLDER holds one folder of images a class. Without it, some digits are written as PNG files first, with a file among
them that is no image, as happens. Needs no network.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import convscope
from convscope.config import DataConfig
from convscope.data.load import load_images


def main(photos: Path | None = None, *, epochs: int = 10) -> None:
    """Train, tell, predict."""
    with tempfile.TemporaryDirectory() as folder:
        photos = photos or write_digits(Path(folder) / "digits")
        result = convscope.train(str(photos), epochs=epochs, out=Path(folder) / "run")
        accuracy = result.accuracy
        print(f"{accuracy.value:.1%} of {accuracy.n} test images right")
        print(f"of images like these it would be {accuracy.low:.1%} to {accuracy.high:.1%}, with 95 % confidence")
        for line in (Path(result.run) / "skipped.csv").read_text().splitlines()[1:]:
            print("skipped:", line)
        images = sorted(photos.rglob("*.png"))[:3]
        for prediction in convscope.predict(result.run, images, topk=2).predictions:
            said = ", ".join(f"{name} {probability:.0%}" for name, probability in prediction.topk)
            print(f"{Path(prediction.path).name}: {said}")


def write_digits(folder: Path, per_class: int = 60) -> Path:
    """Write digits as class folders of PNG files, and one broken file; return the folder."""
    images = load_images(DataConfig(source="mnist5k", per_class=per_class))
    for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        place = folder / images.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(place / f"{number}.png")
    (folder / "0" / "broken.jpg").write_bytes(b"no image")
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
