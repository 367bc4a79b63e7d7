"""Which score tells images unlike anything a classifier has seen, with a threshold that keeps 95 % of validation.

The classifier is a finished run with a frozen network; strangers are files whose classes it has not seen.

    python benchmarks/unknown_score.py CATS_AND_DOGS_RUN flowers.zip imagenet-samples --without 151 293
    python benchmarks/unknown_score.py FLOWERS_AND_THREE_OTHERS_RUN imagenet-samples --result unknown_score_tiny_class

Photos of ImageNet are named INDEX_*.JPEG; `--without` leaves out dogs, wolves, foxes, cats and larger cats, which are
near what a classifier of cats and dogs knows. Of the second run, photos that it was trained on are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
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
from convscope.inference.unknown import KEPT, energy, max_probability, mean_directions
from convscope.models.saved import load_model
from convscope.models.surgery.stages import Frozen, find_freezable, split_stages
from convscope.progress import ignore_progress
from convscope.run.own_data import load_run_data
from convscope.storage.run_folder import read_config
from convscope.training.features import extract_features

NEIGHBOURS = 10
Score = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="of a frozen network")
    parser.add_argument("strangers", type=Path, nargs="+", help="folders or archives of images")
    parser.add_argument("--without", type=int, nargs=2, default=(1, 0), help="first and last INDEX to leave out")
    parser.add_argument("--images", type=int, default=300, help="most of one folder or archive")
    parser.add_argument("--result", default="unknown_score", help="name of the table in results/")
    options = parser.parse_args()
    config, saved = read_config(options.run), load_model(options.run)
    images, splits = load_run_data(options.run, config, ignore_progress, verb="evaluate")
    frozen, rest = split_stages(find_freezable(saved.network, images.shape), ())
    forward = fastest_forward(Frozen(frozen, *list(rest)[:-1], nn.Flatten()), torch.device("cpu"))
    preprocessing = Preprocessing(saved.mean, saved.std)

    def features_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        every = np.arange(len(pixels))
        found = extract_features(forward, pixels, every, preprocessing, cache_key=None, on_progress=ignore_progress)
        assert found is not None
        return found

    known = {Path(id_).name for id_ in images.ids}
    left_out = range(options.without[0], options.without[1] + 1)
    parts = {split: features_of(images.images[chosen]) for split, chosen in splits.items()}
    strangers = {
        path.stem: _strangers(path, config.data, known, left_out, options.images) for path in options.strangers
    }
    parts |= {name: features_of(pixels) for name, pixels in strangers.items()}
    head = rest[-1]
    with torch.inference_mode():
        logits = {name: head(torch.from_numpy(np.array(x))).numpy() for name, x in parts.items()}
    labels = {split: images.labels[chosen] for split, chosen in splits.items()}
    scores = _scores(parts, labels)
    values = {name: {part: score(parts[part], logits[part]) for part in parts} for name, score in scores.items()}
    counts = ", ".join(f"{len(pixels)} of {name}" for name, pixels in strangers.items())
    classes = ", ".join(
        f"{count} {name}" for name, count in zip(images.class_names, np.bincount(images.labels), strict=True)
    )
    write_results(
        options.result,
        "Images unlike anything seen: which score tells them",
        f"{config.model.name} frozen, on {images.name} ({classes}). Of {len(splits.validation)} validation images "
        f"{KEPT:.0%} are kept, which sets each threshold; {len(splits.test)} test images are alike, strangers are "
        f"{counts}. AUROC is the chance that a test image scores above a stranger.",
        ("score", *(f"AUROC {name}" for name in strangers), *(f"unknown: {name}" for name in ("test", *strangers))),
        [_row(name, of_parts, list(strangers)) for name, of_parts in values.items()],
        {},
    )


def _strangers(path: Path, data: DataConfig, known: set[str], left_out: range, most: int) -> NDArray[np.uint8]:
    """Return images of a folder or archive at the size and in the form of the run's images, chosen at random."""
    if path.is_dir():
        paths = [
            each for each in sorted(path.iterdir()) if each.name not in known and int(each.name[:4]) not in left_out
        ]
        with open_paths(paths, Listing()) as entries:
            found = [resize_entry(entry, resizing_of(data), max_pixels=MAX_PIXELS) for entry in entries]
        pixels = np.stack([item.image for item in found if isinstance(item, Decoded)])
    else:
        pixels = load_images(replace(data, source=str(path), per_class=None)).images
    return pixels[np.random.default_rng(0).permutation(len(pixels))[:most]]


def _scores(parts: dict[str, NDArray[np.float32]], labels_of: dict[str, NDArray[np.int64]]) -> dict[str, Score]:
    """Return scores of (features, logits), higher is more alike."""
    train, labels = parts["train"], labels_of["train"]
    means = np.stack([train[labels == label].mean(axis=0) for label in np.unique(labels)])
    centred = train - means[labels]
    covariance = centred.T @ centred / len(train)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    precision = np.linalg.inv(shrunk)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)

    def mahalanobis(x: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float64]:
        return -np.min([np.einsum("nf,fg,ng->n", x - m, precision, x - m, optimize=True) for m in means], axis=0)

    def nearest_mean(split: str) -> Score:
        class_means = mean_directions(parts[split], labels_of[split], int(labels.max()) + 1)
        return lambda x, _: (x / np.linalg.norm(x, axis=1, keepdims=True) @ class_means.T).max(axis=1)

    def neighbours(x: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float64]:
        cosine = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T
        return np.partition(cosine, -NEIGHBOURS - 1, axis=1)[:, -NEIGHBOURS - 1]  # the nearest of train is itself

    return {
        "max-probability": lambda _, z: max_probability(z),
        "energy": lambda _, z: energy(z),
        "largest logit": lambda _, z: z.max(axis=1),
        "distance to the nearest class mean (Mahalanobis)": mahalanobis,
        "cosine to the nearest class mean of validation": nearest_mean("validation"),
        "cosine to the nearest class mean of training": nearest_mean("train"),
        f"cosine to the {NEIGHBOURS}th nearest training image": neighbours,
    }


def _row(name: str, values: dict[str, NDArray[np.float64]], strangers: list[str]) -> list[str]:
    threshold = np.quantile(values["validation"], 1 - KEPT, method="lower")
    areas = [
        roc_auc_score([1] * len(values["test"]) + [0] * len(values[s]), np.concatenate([values["test"], values[s]]))
        for s in strangers
    ]
    unknown = [f"{np.mean(values[part] < threshold):.1%}" for part in ("test", *strangers)]
    return [name, *(f"{area:.3f}" for area in areas), *unknown]


if __name__ == "__main__":
    main()
