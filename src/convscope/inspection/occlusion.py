"""Occlusion: the places of the image that support a class, found by covering one after another."""

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.inspection.subject import Subject
from convscope.memory.macs import count_macs
from convscope.models.eval_mode import eval_mode
from convscope.results.panels import Heat, Panel

PATCHES_PER_SIDE = 6
"""Patches that fit along a side of the image."""
QUICK_MACS = 300_000_000
"""Networks with fewer operations use steps of half a patch: four times as many images."""
FULL_COLOUR = 0.5
"""Change of the probability that gets the full colour, whatever the image: small changes stay pale."""
MIN_DROP = 0.1
"""Percentage points; if no patch lowers the probability by this much, the caption says so."""
SCALE = (
    f"blue: rises by {100 * FULL_COLOUR:g} points or more\nwhite: no change\n"
    f"warm: falls by {100 * FULL_COLOUR:g} points or more"
)
BATCH_MACS = 4_000_000_000
"""Operations of one batch, which bounds the memory."""


def inspect_occlusion(subject: Subject) -> tuple[Panel, ...]:
    """Return how much covering each place lowers the probability of the most probable class."""
    channels = subject.image.shape[2]
    side = min(subject.image.shape[:2])
    macs = count_macs(subject.network, (channels, *subject.image.shape[:2]))
    patch = max(1, side // PATCHES_PER_SIDE)
    step = max(1, patch // 2) if macs < QUICK_MACS else patch
    heat = occlusion(subject, subject.predicted, patch=patch, step=step, batch_size=max(1, BATCH_MACS // max(1, macs)))
    name, drop = subject.class_names[subject.predicted], 100 * max(0.0, float(heat.max()))
    worst = (
        f"the most important place lowers it by {drop:.1f} points"
        if drop >= MIN_DROP
        else f"no place lowers it by {MIN_DROP:g} points"
    )
    caption = f"for {name}\nprobability {100 * subject.probabilities[subject.predicted]:.1f} %\n{worst}"
    title = f"Drop in probability under a gray patch of {patch} × {patch} pixels"
    return (Heat(title, subject.image, (heat,), (caption,), full_colour=FULL_COLOUR, scale=SCALE),)


def occlusion(subject: Subject, label: int, *, patch: int, step: int, batch_size: int) -> NDArray[np.float32]:
    """Return for each pixel the drop in the class's probability, averaged over the patches that cover it, [H, W].

    A patch has the data's mean colour, which is zero in the network's input. Patches at the right and lower edge are
    cut.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
    """
    x = subject.input()
    height, width = x.shape[2:]
    tops, lefts = (_starts(side, patch, step) for side in (height, width))
    places = [(slice(top, top + patch), slice(left, left + patch)) for top in tops for left in lefts]
    with eval_mode(subject.network), torch.inference_mode():
        whole = subject.network(x).softmax(dim=1)[0, label]
        drops = []
        for start in range(0, len(places), batch_size):
            covered = x.repeat(len(places[start : start + batch_size]), 1, 1, 1)
            for image, (rows, columns) in zip(covered, places[start : start + batch_size], strict=True):
                image[:, rows, columns] = 0
            drops.append(whole - subject.network(covered).softmax(dim=1)[:, label])
    total, times = np.zeros((height, width)), np.zeros((height, width))
    for (rows, columns), drop in zip(places, torch.cat(drops).double().tolist(), strict=True):
        total[rows, columns] += drop
        times[rows, columns] += 1
    return (total / np.maximum(times, 1)).astype(np.float32)


def _starts(side: int, patch: int, step: int) -> range:
    """Return the starts of the patches: every `step` pixels, until a patch reaches the edge."""
    return range(0, max(side - patch, 0) + step, step) if (side - patch) % step else range(0, side - patch + 1, step)
