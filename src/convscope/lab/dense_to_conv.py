"""A network with dense layers as one of convolutions, and its map of scores over a larger picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.budget.costs import count_macs
from convscope.data.batches import make_resident
from convscope.lab.equal_cost import INPUT_SHAPE
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.trials import make_variant, measured, run_trials
from convscope.lab.variants import mean_interval, seed_intervals, sentence
from convscope.models.convert import to_convolutional
from convscope.modes import evaluation_mode
from convscope.progress import OnProgress
from convscope.randomness import permutation
from convscope.results import Heat, Table
from convscope.workflow import Prepared

NETWORK = "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; max-pool 2; linear 64; relu; linear 10"
"""Without padding, so that a window inside a picture sees what it sees cut out."""
STRIDE = 4
"""Pixels between neighbouring scores: two poolings by 2."""
ROWS, COLUMNS, CELL_PX = 3, 7, 40
"""Digits on the canvas, each somewhere in a cell of its own."""
SIDE = INPUT_SHAPE[1]
DRAWN = (0, 1, 7)
"""Classes whose map of probabilities is drawn."""


def find(setting: Setting, on_progress: OnProgress) -> Finding:
    """Convert trained networks, check that nothing changes, and let them look at a canvas full of digits."""
    trials = run_trials([make_variant("dense", NETWORK)], setting, on_progress, measure=measure)[0]
    found = {name: measured(trials, name) for name in ("same", "windows", "hits", "agree", "macs")}
    right, low, high = mean_interval(100 * found["hits"])
    ratio = float(found["macs"][0])
    first = trials[0].measured
    height, width = first["scores"].shape[1:]
    answer = sentence(
        f"as convolutions the networks give the same logits within {found['same'].max():.1g}, and on a canvas of "
        f"{ROWS * CELL_PX}x{COLUMNS * CELL_PX} pixels the {height}x{width} scores are those of every window cut out "
        f"within {found['windows'].max():.1g}, for {ratio:.1f} times fewer operations",
        f"of {ROWS * COLUMNS} digits they name {right:.0f} % right in their own window ({low:.0f} to "
        f"{high:.0f}, {setting.seeds} seeds)",
    )
    return Finding(
        answer=answer,
        method=f"{setting.seeds} networks with two dense layers, trained on the same digits and made convolutional. "
        f"Each is compared with itself on all test pictures, and on every {STRIDE}th window of a canvas with "
        f"{ROWS * COLUMNS} test digits. Intervals are 95 %, over seeds.",
        panels=(
            _maps(first),
            seed_intervals(
                "Digits named right",
                "share of the digits, %",
                ("in their window of the canvas", "cut out and given to the dense network"),
                (100 * found["hits"], 100 * found["agree"]),
            ),
            Table(
                "Largest difference of a logit",
                ("seed", "on pictures of the original size", "on windows of the canvas"),
                tuple(
                    (str(seed), f"{same:.1e}", f"{windows:.1e}")
                    for seed, (same, windows) in enumerate(zip(found["same"], found["windows"], strict=True))
                ),
            ),
        ),
        numbers={
            "largest_difference": float(found["same"].max()),
            "largest_difference_windows": float(found["windows"].max()),
            "right_on_canvas": (found["hits"]).tolist(),
            "right_cut_out": (found["agree"]).tolist(),
            "times_fewer_macs": ratio,
            "score_map": [height, width],
        },
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return how far the two forms of a network are apart, the canvas, its scores, and which digits are right."""
    images, device = prepared.images, prepared.device
    data = make_resident(images, prepared.splits.test, device)
    convolutional = to_convolutional(prepared.network, images.shape)
    pictures = data.select()
    canvas, places, labels = compose(pictures.numpy(), data.labels.numpy())
    with evaluation_mode(prepared.network), torch.inference_mode():
        x = prepared.preprocessing.apply(pictures)
        same = (convolutional(x).flatten(1) - prepared.network(x)).abs().max()
        whole = prepared.preprocessing.apply(torch.from_numpy(canvas)[None])
        scores = convolutional(whole)[0]
        windows = whole[0].unfold(1, SIDE, STRIDE).unfold(2, SIDE, STRIDE).permute(1, 2, 0, 3, 4)
        alone = prepared.network(windows.reshape(-1, *images.shape)).view(*windows.shape[:2], -1)
    said = scores.argmax(0).numpy()
    rows, columns = (places // STRIDE).T
    cut_out = alone.argmax(2).numpy()[rows, columns]
    macs = windows.shape[0] * windows.shape[1] * prepared.macs / count_macs(convolutional, (1, *canvas.shape[:2]))
    return {
        "same": np.float64(same),
        "windows": np.float64((scores.permute(1, 2, 0) - alone).abs().max()),
        "hits": np.float64((said[rows, columns] == labels).mean()),
        "agree": np.float64((cut_out == labels).mean()),
        "macs": np.float64(macs),
        "canvas": canvas,
        "scores": scores.softmax(0).numpy(),
    }


def compose(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return a canvas uint8 [H, W, 1] with digits, where each lies [M, 2] (row, column), and their labels [M].

    Args:
        pictures: uint8 [N, 28, 28, 1], at least M of them.
    """
    canvas = np.zeros((ROWS * CELL_PX, COLUMNS * CELL_PX, 1), np.uint8)
    chosen = permutation(len(pictures), "canvas")[: ROWS * COLUMNS]
    room = (CELL_PX - SIDE) // STRIDE + 1
    places = []
    for cell, index in enumerate(chosen):
        down, right = permutation(room, "row", cell)[0], permutation(room, "column", cell)[0]
        top = cell // COLUMNS * CELL_PX + STRIDE * int(down)
        left = cell % COLUMNS * CELL_PX + STRIDE * int(right)
        canvas[top : top + SIDE, left : left + SIDE] = pictures[index]
        places.append((top, left))
    return canvas, np.array(places), labels[chosen]


def _maps(first: Mapping[str, NDArray[Any]]) -> Heat:
    """Return the canvas with the probability of some classes over it: each score stands at its window's centre."""
    border = (SIDE - STRIDE) // 2 // STRIDE
    heats = np.pad(first["scores"], ((0, 0), (border, border), (border, border)))
    return Heat(
        "Where the network sees a class (first seed)",
        np.asarray(first["canvas"], np.uint8),
        tuple(heats[k].astype(np.float32) for k in DRAWN),
        tuple(f"probability of {k} in the window around a place" for k in DRAWN),
    )


LAB = Lab(
    "Can a network with dense layers look at larger pictures?",
    "The canvas, and over it how probable a class is in the window around every place; the network was trained on "
    "single digits.",
    find,
    seeds=5,
)
