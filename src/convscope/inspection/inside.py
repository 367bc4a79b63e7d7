"""One image and its feature maps, small enough to store with every run."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convscope.errors import UsageError
from convscope.inspection.feature_maps import inspect_feature_maps
from convscope.inspection.grad_cam import inspect_grad_cam
from convscope.inspection.subject import Subject
from convscope.results.panels import FeatureMaps, ImageGrid, Panel, Table

MAX_LAYERS, MAX_MAPS, MAX_SIDE = 16, 16, 56
"""Limits of what is stored: layers, feature maps of a layer, and height or width of a feature map."""


def inside_panels(subject: Subject, *, image_id: str, label: str) -> tuple[Panel, ...]:
    """Return the image with Grad-CAM, its prediction, and the feature maps of at most MAX_LAYERS layers.

    Larger feature maps are averaged down to at most MAX_SIDE places per side.
    """
    names, probabilities = subject.class_names, subject.probabilities
    best = np.argsort(-probabilities, kind="stable")[:3]
    prediction = Table(
        "Prediction",
        ("What", "Value"),
        (
            ("Image", image_id),
            ("Actual class", label),
            *((f"Probability of {names[k]}", f"{100 * probabilities[k]:.1f}\N{NO-BREAK SPACE}%") for k in best),
        ),
    )
    shown: Panel
    try:
        (shown,) = inspect_grad_cam(subject)
    except UsageError:  # no feature maps, so no place to show
        shown = ImageGrid("The image", (subject.image,), (f"actual {label}",))
    try:
        (maps,) = inspect_feature_maps(replace(subject, layer=None), max_layers=MAX_LAYERS)
    except UsageError:  # neither feature maps nor vectors
        return shown, prediction
    assert isinstance(maps, FeatureMaps)
    return shown, prediction, replace(maps, maps=tuple(_smaller(values[:MAX_MAPS]) for values in maps.maps))


def _smaller(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return feature maps [M, H, W] averaged over blocks so that no side exceeds MAX_SIDE; the rest is cut off."""
    block = -(-max(maps.shape[1:]) // MAX_SIDE)
    if block == 1:
        return maps
    number, height, width = maps.shape
    rows, columns = height // block or 1, width // block or 1
    cut = maps[:, : rows * block, : columns * block]
    return np.asarray(cut.reshape(number, rows, -1, columns, cut.shape[2] // columns).mean(axis=(2, 4)))
