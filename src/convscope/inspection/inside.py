"""One picture on its way through a network, small enough to be kept with every run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convscope.errors import UsageError
from convscope.inspection.feature_maps import inspect_feature_maps
from convscope.inspection.grad_cam import inspect_grad_cam
from convscope.inspection.subject import Subject
from convscope.results import ImageGrid, Maps, Panel, Table

MAX_LAYERS, MAX_MAPS, MAX_SIDE = 16, 16, 56
"""What is kept: so many layers, so many maps of each, of at most so many places a side."""


def inside_panels(subject: Subject, *, picture_id: str, label: str) -> tuple[Panel, ...]:
    """Return the picture with its evidence, what the network says of it, and the maps of at most MAX_LAYERS layers.

    Larger maps are averaged down to MAX_SIDE places a side.
    """
    names, probabilities = subject.class_names, subject.probabilities
    best = np.argsort(-probabilities, kind="stable")[:3]
    answer = Table(
        "What the network says",
        ("What", "Value"),
        (
            ("Picture", picture_id),
            ("Actual class", label),
            *((f"Probability of {names[k]}", f"{100 * probabilities[k]:.1f}\N{NO-BREAK SPACE}%") for k in best),
        ),
    )
    shown: Panel
    try:
        (shown,) = inspect_grad_cam(subject)
    except UsageError:  # no maps: there is no place to show
        shown = ImageGrid("The picture", (subject.picture,), (f"actual {label}",))
    try:
        (maps,) = inspect_feature_maps(replace(subject, layer=None), max_layers=MAX_LAYERS)
    except UsageError:  # a network of neither maps nor vectors
        return shown, answer
    assert isinstance(maps, Maps)
    return shown, answer, replace(maps, maps=tuple(_smaller(values[:MAX_MAPS]) for values in maps.maps))


def _smaller(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return maps [M, H, W] with blocks of places averaged, until a side has at most MAX_SIDE; the rest is cut off."""
    block = -(-max(maps.shape[1:]) // MAX_SIDE)
    if block == 1:
        return maps
    number, height, width = maps.shape
    rows, columns = height // block or 1, width // block or 1
    cut = maps[:, : rows * block, : columns * block]
    return np.asarray(cut.reshape(number, rows, -1, columns, cut.shape[2] // columns).mean(axis=(2, 4)))
