"""Train on a folder of your own pictures, see how sure the result is, and let it name new pictures.

    python examples/train_your_own.py [FOLDER]

FOLDER holds one folder of pictures a class. Without it, some digits are written as PNG files first, with a file among
them that is no picture, as happens. Needs no network.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import convscope
from convscope.config import DataConfig
from convscope.data import load_images


def main(photos: Path | None = None, *, epochs: int = 10) -> None:
    """Train, tell, predict."""
    with tempfile.TemporaryDirectory() as folder:
        photos = photos or write_digits(Path(folder) / "digits")
        result = convscope.train(str(photos), epochs=epochs, out=Path(folder) / "run")
        accuracy = result.accuracy
        print(f"{accuracy.value:.1%} of {accuracy.n} test pictures right")
        print(f"of pictures like these it would be {accuracy.low:.1%} to {accuracy.high:.1%}, with 95 % confidence")
        for line in (Path(result.run) / "skipped.csv").read_text().splitlines()[1:]:
            print("skipped:", line)
        pictures = sorted(photos.rglob("*.png"))[:3]
        for prediction in convscope.predict(result.run, pictures, topk=2).predictions:
            said = ", ".join(f"{name} {probability:.0%}" for name, probability in prediction.topk)
            print(f"{Path(prediction.path).name}: {said}")


def write_digits(folder: Path, per_class: int = 60) -> Path:
    """Write digits as class folders of PNG files, and one broken file; return the folder."""
    images = load_images(DataConfig(source="mnist5k", per_class=per_class))
    for number, (picture, label) in enumerate(zip(images.images, images.labels, strict=True)):
        place = folder / images.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[:, :, 0]).save(place / f"{number}.png")
    (folder / "0" / "broken.jpg").write_bytes(b"no picture")
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
