"""Which score tells images unlike anything a classifier has seen, with a threshold that keeps 95 % of validation.

The classifier is a finished run with a frozen network on photos of cats and dogs; strangers are flowers and photos of
ImageNet without its dogs, cats and their relatives.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import write_results
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from convscope.config import MAX_PIXELS, DataConfig
from convscope.data.batches import Preprocessing
from convscope.data.decode.decode import Decoded, resize_entry
from convscope.data.decode.files import Listing
from convscope.data.decode.resize import resizing_of
from convscope.data.load import load_images
from convscope.data.sources.image_files import open_paths
from convscope.inference.fast_forward import fastest_forward
from convscope.inference.unknown import KEPT, energy, max_probability
from convscope.models.saved import load_model
from convscope.models.surgery.stages import Frozen, find_freezable, split_stages
from convscope.progress import ignore_progress
from convscope.run.prepare import load_run_data
from convscope.storage.run_folder import read_config
from convscope.training.features import extract_features

RELATIVES = range(151, 294)
"""Numbers of ImageNet's classes of dogs, wolves, foxes, cats and larger cats: near what the classifier knows."""
NEIGHBOURS = 10
Score = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="of a frozen network on cats and dogs")
    parser.add_argument("flowers", type=Path, help="archive of flowers")
    parser.add_argument("samples", type=Path, help="folder of photos of ImageNet, INDEX_*.JPEG")
    parser.add_argument("--images", type=int, default=300, help="of the flowers")
    options = parser.parse_args()
    config, saved = read_config(options.run), load_model(options.run)
    images, splits = load_run_data(options.run, config, ignore_progress)
    frozen, rest = split_stages(find_freezable(saved.network, images.shape), ())
    forward = fastest_forward(Frozen(frozen, *list(rest)[:-1], nn.Flatten()), torch.device("cpu"))
    preprocessing = Preprocessing(saved.mean, saved.std)

    def features_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        every = np.arange(len(pixels))
        found = extract_features(forward, pixels, every, preprocessing, cache_key=None, on_progress=ignore_progress)
        assert found is not None
        return found

    flowers = load_images(_like(config.data, str(options.flowers))).images
    chosen = np.random.default_rng(0).permutation(len(flowers))[: options.images]
    parts = {
        "train": features_of(images.images[splits.train]),
        "validation": features_of(images.images[splits.validation]),
        "test": features_of(images.images[splits.test]),
        "flowers": features_of(flowers[chosen]),
        "ImageNet": features_of(_samples(options.samples, config.data)),
    }
    head = rest[-1]
    with torch.inference_mode():
        logits = {name: head(torch.from_numpy(np.array(x))).numpy() for name, x in parts.items()}
    scores = _scores(parts["train"], images.labels[splits.train])
    rows = [_row(name, {part: score(parts[part], logits[part]) for part in parts}) for name, score in scores.items()]
    write_results(
        "unknown_score",
        "Images unlike anything seen: which score tells them",
        f"{config.model.name} frozen, on {images.name}. Of {len(splits.validation)} validation images {KEPT:.0%} "
        f"are kept, which sets each threshold; {len(splits.test)} test images are alike, {len(chosen)} flowers and "
        f"{len(parts['ImageNet'])} photos of ImageNet (without dogs, cats and relatives) are strangers. AUROC is the "
        "chance that a test image scores above a stranger.",
        ("score", "AUROC flowers", "AUROC ImageNet", "unknown: test", "unknown: flowers", "unknown: ImageNet"),
        rows,
        {},
    )


def _like(data: DataConfig, source: str) -> DataConfig:
    """Return the configuration that brings another source to the size and form of the run's images."""
    return DataConfig(
        source=source,
        image_size=data.image_size,
        resize=data.resize,
        crop_fraction=data.crop_fraction,
        interpolation=data.interpolation,
        gray=data.gray,
    )


def _samples(folder: Path, data: DataConfig) -> NDArray[np.uint8]:
    paths = [path for path in sorted(folder.iterdir()) if int(path.name[:4]) not in RELATIVES]
    with open_paths(paths, Listing()) as entries:
        found = [resize_entry(entry, resizing_of(data), max_pixels=MAX_PIXELS) for entry in entries]
    return np.stack([item.image for item in found if isinstance(item, Decoded)])


def _scores(train: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Score]:
    """Return scores of (features, logits), higher is more alike."""
    means = np.stack([train[labels == label].mean(axis=0) for label in np.unique(labels)])
    centred = train - means[labels]
    covariance = centred.T @ centred / len(train)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    precision = np.linalg.inv(shrunk)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)

    def mahalanobis(x: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float64]:
        return -np.min([np.einsum("nf,fg,ng->n", x - m, precision, x - m, optimize=True) for m in means], axis=0)

    unit_means = np.stack([unit[labels == label].mean(axis=0) for label in np.unique(labels)])
    unit_means /= np.linalg.norm(unit_means, axis=1, keepdims=True)

    def nearest_mean(x: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float64]:
        return (x / np.linalg.norm(x, axis=1, keepdims=True) @ unit_means.T).max(axis=1)

    def neighbours(x: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float64]:
        cosine = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T
        return np.partition(cosine, -NEIGHBOURS - 1, axis=1)[:, -NEIGHBOURS - 1]  # the nearest of train is itself

    return {
        "max-probability": lambda _, z: max_probability(z),
        "energy": lambda _, z: energy(z),
        "largest logit": lambda _, z: z.max(axis=1),
        "distance to the nearest class mean (Mahalanobis)": mahalanobis,
        "cosine to the nearest class mean": nearest_mean,
        f"cosine to the {NEIGHBOURS}th nearest training image": neighbours,
    }


def _row(name: str, values: dict[str, NDArray[np.float64]]) -> list[str]:
    threshold = np.quantile(values["validation"], 1 - KEPT, method="lower")
    strangers = ("flowers", "ImageNet")
    areas = [
        roc_auc_score([1] * len(values["test"]) + [0] * len(values[s]), np.concatenate([values["test"], values[s]]))
        for s in strangers
    ]
    unknown = [f"{np.mean(values[part] < threshold):.1%}" for part in ("test", *strangers)]
    return [name, *(f"{area:.3f}" for area in areas), *unknown]


if __name__ == "__main__":
    main()
