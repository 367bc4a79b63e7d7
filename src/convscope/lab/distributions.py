"""Tested on other pictures than trained on, and what augmentation or mixing gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate as rotate_picture

from convscope.comparison.compare import compare_groups
from convscope.config import DataConfig
from convscope.data import load_images
from convscope.data.image_set import ImageSet
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.trials import Trial, group_of, make_variant, measured, run_trials
from convscope.lab.variants import comparison_numbers, conclude, describe, mean_interval, seed_intervals, sentence
from convscope.progress import OnProgress
from convscope.randomness import derive_seed, uniform
from convscope.results import ImageGrid, Table
from convscope.workflow import Prepared, predict_indices

Pictures = NDArray[np.uint8]
NETWORK = "conv 8 5x5 same; relu; max-pool 2; conv 16 5x5 same; relu; max-pool 2; linear 10"
SHIFT_PX, ROTATION_DEGREES, NOISE = 3, 30.0, 0.35
"""How far a picture is moved and turned, and the deviation of the noise in units of the full range."""
PLAIN = "as trained"
SHOWN = 5
"""Pictures of each kind that are shown."""


def find(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure three ways to train on five kinds of test pictures."""
    made = [
        make_variant("plain", NETWORK),
        make_variant("augmented", NETWORK, augment=("crop", "rotate", "zoom")),
        make_variant("mixed", NETWORK, change=mixed),
    ]
    trials = run_trials(made, setting, on_progress, measure=measure)
    names = [variant.name for variant in made]
    groups = [
        group_of(f"{name} on {kind}", [_on(trial, kind) for trial in of_one])
        for name, of_one in zip(names, trials, strict=True)
        for kind in KINDS
    ]
    others = [kind for kind in KINDS if kind != PLAIN]
    pairs = [(f"plain on {kind}", f"{name} on {kind}") for kind in others for name in names[1:]]
    comparison = compare_groups(groups, pairs=pairs)
    accuracies = {
        kind: [100 * measured(of_one, kind).mean(axis=1) for of_one in trials] for kind in KINDS
    }  # [kind][way][seed], %
    drops = [mean_interval(accuracies[PLAIN][0] - accuracies[kind][0]) for kind in others]
    lost = ", ".join(
        f"{kind} {mean:.1f} points ({low:.1f} to {high:.1f})"
        for kind, (mean, low, high) in zip(others, drops, strict=True)
    )
    rows = [
        (kind, *(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in of_kind))
        for kind, of_kind in accuracies.items()
    ]
    return Finding(
        answer=sentence(f"trained on plain digits and tested on others, a network loses: {lost}", conclude(comparison)),
        method=f"{describe(made, trials)} “augmented” moves, turns and zooms every training picture a little, anew in "
        f"each epoch; “mixed” changes four of five training pictures in the ways of the tests: {SHIFT_PX} pixels in "
        f"one of eight directions, up to {ROTATION_DEGREES:g} degrees, inverted, noise of {NOISE:g} of the range.",
        panels=(
            seed_intervals(
                "Test accuracy by way of training and kind of test picture",
                "accuracy, %",
                [f"{name} on {kind}" for kind in KINDS for name in names],
                [values for of_kind in accuracies.values() for values in of_kind],
            ),
            Table("Accuracy, % (mean and deviation of the seeds)", ("tested on", *names), tuple(rows)),
            _samples(),
        ),
        numbers=comparison_numbers(comparison)
        | {"drops": {kind: list(drop) for kind, drop in zip(others, drops, strict=True)}},
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return which test pictures are right, of every kind, bool [N]."""
    return {kind: _right(prepared, change) for kind, change in KINDS.items()}


def _right(prepared: Prepared, change: Callable[[Pictures], Pictures]) -> NDArray[np.bool_]:
    test = prepared.images.take(prepared.splits.test)
    test = replace(test, images=change(test.images))
    logits = predict_indices(prepared.network, test, np.arange(len(test)), prepared.preprocessing, prepared.device)
    return np.asarray(logits.argmax(axis=1) == test.labels)


# ---------------------------------------------------------------- kinds of pictures


def shifted(pictures: Pictures) -> Pictures:
    """Move each picture, uint8 [N, H, W, C], in one of eight directions, black coming in."""
    directions = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    padded = np.pad(pictures, ((0, 0), (SHIFT_PX,) * 2, (SHIFT_PX,) * 2, (0, 0)))
    _, height, width, _ = pictures.shape
    chosen = (8 * _uniform(pictures, "shift")).astype(int)
    return np.stack(
        [
            picture[SHIFT_PX * (1 - down) :, SHIFT_PX * (1 - right) :][:height, :width]
            for picture, (down, right) in zip(padded, (directions[i] for i in chosen), strict=True)
        ]
    )


def rotated(pictures: Pictures) -> Pictures:
    """Turn each picture about its centre, up to ROTATION_DEGREES either way, bilinear."""
    angles = ROTATION_DEGREES * (2 * _uniform(pictures, "rotation") - 1)
    turned = [rotate_picture(p, a, axes=(0, 1), reshape=False, order=1) for p, a in zip(pictures, angles, strict=True)]
    return np.stack(turned)


def inverted(pictures: Pictures) -> Pictures:
    """Exchange black and white."""
    return 255 - pictures


def noisy(pictures: Pictures) -> Pictures:
    """Add normal noise to every pixel, cut off at black and white."""
    noise = np.random.Generator(np.random.Philox(derive_seed("noise"))).normal(0, 255 * NOISE, pictures.shape)
    return np.clip(pictures + noise, 0, 255).round().astype(np.uint8)


KINDS: dict[str, Callable[[Pictures], Pictures]] = {
    PLAIN: lambda pictures: pictures,
    "shifted": shifted,
    "rotated": rotated,
    "inverted": inverted,
    "noisy": noisy,
}


def mixed(images: ImageSet) -> ImageSet:
    """Return the data with a fifth of what is not test data of each kind."""
    changed = images.images.copy()
    own = np.flatnonzero(np.array(images.parts) != "test")
    for number, change in enumerate(KINDS.values()):
        chosen = own[number :: len(KINDS)]
        changed[chosen] = change(images.images[chosen])
    return replace(images, images=changed)


def _uniform(pictures: Pictures, purpose: str) -> NDArray[np.float32]:
    return uniform(np.arange(len(pictures)), purpose)


def _on(trial: Trial, kind: str) -> Trial:
    return replace(trial, run=replace(trial.run, right=np.asarray(trial.measured[kind], bool)))


def _samples() -> ImageGrid:
    """Return a few digits of each kind."""
    images = load_images(DataConfig(source="mnist5k", per_class=1)).images[:SHOWN]
    return ImageGrid(
        "Test pictures of each kind",
        tuple(picture for change in KINDS.values() for picture in change(images)),
        tuple(kind for kind in KINDS for _ in images),
    )


LAB = Lab(
    "How much accuracy is lost on other pictures than those trained on, and what gives it back?",
    "For each kind of test picture there are three rows: plain training, augmentation, training pictures of all kinds.",
    find,
)
