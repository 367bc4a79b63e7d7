"""Test images unlike the training images, and what augmentation or mixing recovers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate as rotate_image

from convscope.comparison.compare import compare_groups, points_text
from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.evaluation.predict import predict_indices
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import group_of, make_variant, measured, run_trials
from convscope.experiments.variants import make_finding, mean_interval, seed_intervals
from convscope.progress import OnProgress
from convscope.results.panels import ImageGrid, Table
from convscope.run.prepare import Prepared
from convscope.seeds import derive_seed, uniform

Images = NDArray[np.uint8]
NETWORK = "conv 8 5x5 same; relu; max-pool 2; conv 16 5x5 same; relu; max-pool 2; linear 10"
SHIFT_PX, ROTATION_DEGREES, NOISE = 3, 30.0, 0.35
"""Shift and rotation of an image, and the standard deviation of the noise as a fraction of the full range."""
PLAIN = "as trained"
SHOWN = 5
"""Images shown of each kind."""


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Test three ways of training on five kinds of images."""
    variants = [
        make_variant("plain", NETWORK),
        make_variant("augmented", NETWORK, augment=("crop", "rotate", "zoom")),
        make_variant("mixed", NETWORK, change=mixed, note="four of five changed in the ways of the tests"),
    ]
    trials = run_trials(variants, setting, on_progress, measure=measure)
    correct = {kind: measured(trials, kind) for kind in KINDS}
    groups = [
        group_of(f"{name} on {kind}", of_seeds, correct[kind][name])
        for name, of_seeds in trials.items()
        for kind in KINDS
    ]
    others = [kind for kind in KINDS if kind != PLAIN]
    pairs = [(f"plain on {kind}", f"{name} on {kind}") for kind in others for name in trials if name != "plain"]
    accuracies = {
        kind: {name: 100 * values.mean(axis=1) for name, values in of_kind.items()} for kind, of_kind in correct.items()
    }
    drops = {
        kind: mean_interval(accuracies[PLAIN]["plain"] - accuracies[kind]["plain"], within=(-100, 100))
        for kind in others
    }
    lost = ", ".join(f"{kind} ({points_text(*(end / 100 for end in drop))})" for kind, drop in drops.items())
    rows = [
        (kind, *(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in of_kind.values()))
        for kind, of_kind in accuracies.items()
    ]
    return make_finding(
        trials,
        compare_groups(groups, pairs=pairs),
        first=f"trained on plain digits and tested on others, a network loses: {lost}",
        method="“augmented” moves, turns and zooms every training image a little, differently in each epoch; “mixed” "
        f"changes four of five training images in the ways of the tests: a shift of {SHIFT_PX} pixels in one of eight "
        f"directions, a rotation of up to {ROTATION_DEGREES:g} degrees, inversion, or noise with a standard deviation "
        f"of {NOISE:g} of the range.",
        panels=(
            seed_intervals(
                "Test accuracy by training and kind of test image",
                "accuracy, %",
                {f"{name} on {kind}": values for kind in KINDS for name, values in accuracies[kind].items()},
            ),
            Table("Accuracy, % (mean and standard deviation over the seeds)", ("tested on", *trials), tuple(rows)),
            _samples(),
        ),
        numbers={"drops": {kind: list(drop) for kind, drop in drops.items()}},
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return for each kind of test image which ones are predicted correctly, bool [N]."""
    test = prepared.images.take(prepared.splits.test)
    found = {}
    for kind, change in KINDS.items():
        changed = replace(test, images=change(test.images))
        indices = np.arange(len(test))
        logits = predict_indices(prepared.network, changed, indices, prepared.preprocessing, prepared.device)
        found[kind] = logits.argmax(axis=1) == test.labels
    return found


# ---------------------------------------------------------------- kinds of images


def shifted(images: Images) -> Images:
    """Move each image, uint8 [N, H, W, C], in one of eight directions and fill it up with black."""
    directions = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    padded = np.pad(images, ((0, 0), (SHIFT_PX,) * 2, (SHIFT_PX,) * 2, (0, 0)))
    _, height, width, _ = images.shape
    chosen = (8 * _uniform(images, "shift")).astype(int)
    return np.stack(
        [
            image[SHIFT_PX * (1 - down) :, SHIFT_PX * (1 - right) :][:height, :width]
            for image, (down, right) in zip(padded, (directions[i] for i in chosen), strict=True)
        ]
    )


def rotated(images: Images) -> Images:
    """Turn each image about its centre by up to ROTATION_DEGREES either way, bilinear."""
    angles = ROTATION_DEGREES * (2 * _uniform(images, "rotation") - 1)
    turned = [rotate_image(p, a, axes=(0, 1), reshape=False, order=1) for p, a in zip(images, angles, strict=True)]
    return np.stack(turned)


def inverted(images: Images) -> Images:
    """Exchange black and white."""
    return 255 - images


def noisy(images: Images) -> Images:
    """Add normal noise to every pixel, clipped at black and white."""
    noise = np.random.Generator(np.random.Philox(derive_seed("noise"))).normal(0, 255 * NOISE, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


KINDS: dict[str, Callable[[Images], Images]] = {
    PLAIN: lambda images: images,
    "shifted": shifted,
    "rotated": rotated,
    "inverted": inverted,
    "noisy": noisy,
}


def mixed(images: ImageSet) -> ImageSet:
    """Return the data with a fifth of all images outside the test split of each kind."""
    changed = images.images.copy()
    own = np.flatnonzero(np.array(images.source_splits) != "test")
    for number, change in enumerate(KINDS.values()):
        chosen = own[number :: len(KINDS)]
        changed[chosen] = change(images.images[chosen])
    return replace(images, images=changed)


def _uniform(images: Images, purpose: str) -> NDArray[np.float32]:
    return uniform(np.arange(len(images)), purpose)


def _samples() -> ImageGrid:
    """Return a few digits of each kind."""
    images = load_images(DataConfig(source="mnist5k", per_class=1)).images[:SHOWN]
    return ImageGrid(
        "Test images of each kind",
        tuple(image for change in KINDS.values() for image in change(images)),
        tuple(kind for kind in KINDS for _ in images),
    )


LAB = Lab(
    "How much accuracy is lost on images unlike the training images, and what recovers it?",
    "Each kind of test image has three rows: plain training, augmentation, and training images of all kinds.",
    run,
    seeds=10,
)
