"""Where in the picture the evidence for a class lies, by covering one place after another."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.budget.costs import count_macs
from convscope.inspection.subject import Subject
from convscope.modes import evaluation_mode
from convscope.results import Heat, Panel

PATCHES_PER_SIDE = 6
"""How often the patch fits along the picture."""
QUICK_MACS = 300_000_000
"""Networks of fewer operations take steps of half a patch: four times as many pictures."""
LEAST_FALL = 0.1
"""Percentage points; where covering takes away less, the colours show next to nothing, and the caption says so."""
BATCH_MACS = 4_000_000_000
"""About so many operations are done at a time, which bounds the memory."""


def inspect_occlusion(subject: Subject) -> tuple[Panel, ...]:
    """Return by how much covering each place lowers the probability of the most probable class."""
    channels = subject.picture.shape[2]
    side = min(subject.picture.shape[:2])
    macs = count_macs(subject.network, (channels, *subject.picture.shape[:2]))
    patch = max(1, side // PATCHES_PER_SIDE)
    step = max(1, patch // 2) if macs < QUICK_MACS else patch
    heat = occlusion(subject, subject.predicted, patch=patch, step=step, batch_size=max(1, BATCH_MACS // max(1, macs)))
    name, fall = subject.class_names[subject.predicted], 100 * max(0.0, float(heat.max()))
    worst = (
        f"covered at the worst place {fall:.1f} points less"
        if fall >= LEAST_FALL
        else f"nowhere {LEAST_FALL:g} points less: no single place decides"
    )
    caption = f"for {name}\nprobability {100 * subject.probabilities[subject.predicted]:.1f} %\n{worst}"
    return (Heat(f"What a gray patch of {patch} × {patch} pixels takes away", subject.picture, (heat,), (caption,)),)


def occlusion(subject: Subject, label: int, *, patch: int, step: int, batch_size: int) -> NDArray[np.float32]:
    """Return for each pixel the fall of the class's probability, averaged over the patches on it, float32 [H, W].

    A patch is of the data's mean colour, the zero of the network's input; those at the right and lower edge are cut.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
    """
    x = subject.input()
    height, width = x.shape[2:]
    tops, lefts = (_starts(side, patch, step) for side in (height, width))
    places = [(slice(top, top + patch), slice(left, left + patch)) for top in tops for left in lefts]
    with evaluation_mode(subject.network), torch.inference_mode():
        whole = subject.network(x).softmax(dim=1)[0, label]
        falls = []
        for start in range(0, len(places), batch_size):
            covered = x.repeat(len(places[start : start + batch_size]), 1, 1, 1)
            for picture, (rows, columns) in zip(covered, places[start : start + batch_size], strict=True):
                picture[:, rows, columns] = 0
            falls.append(whole - subject.network(covered).softmax(dim=1)[:, label])
    total, times = np.zeros((height, width)), np.zeros((height, width))
    for (rows, columns), fall in zip(places, torch.cat(falls).double().tolist(), strict=True):
        total[rows, columns] += fall
        times[rows, columns] += 1
    return (total / np.maximum(times, 1)).astype(np.float32)


def _starts(side: int, patch: int, step: int) -> range:
    """Return where patches begin: every `step` pixels, until one reaches the edge."""
    return range(0, max(side - patch, 0) + step, step) if (side - patch) % step else range(0, side - patch + 1, step)
