"""A network with dense layers turned into convolutions, and its map of scores over a larger image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.data.batches import make_resident
from convscope.experiments.equal_cost import INPUT_SHAPE
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import measured, run_trials, stack_variants
from convscope.experiments.variants import mean_interval, seed_intervals, sentence, setup_table
from convscope.memory.macs import count_macs
from convscope.models.eval_mode import eval_mode
from convscope.models.surgery.convert import to_convolutional
from convscope.progress import OnProgress
from convscope.results.panels import Heat, Table
from convscope.run.prepare import Prepared
from convscope.seeds import permutation

NETWORK = "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; max-pool 2; linear 64; relu; linear 10"
"""Without padding, so that a window inside an image looks the same as when it is cut out."""
STRIDE = 4
"""Pixels between neighbouring scores: two poolings by 2."""
ROWS, COLUMNS, CELL_PX = 3, 7, 40
"""Digits on the canvas, each somewhere in a cell of its own."""
SIDE = INPUT_SHAPE[1]
TOLERANCE = 1e-4
"""Logits that differ less are the same but for rounding."""
DRAWN = (0, 1, 7)
"""Classes whose probability is drawn over the canvas."""


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Convert trained networks, check that their outputs stay the same, and apply them to a canvas full of digits."""
    trials = run_trials(stack_variants({"dense": NETWORK}), setting, on_progress, measure=measure)
    found = {
        name: measured(trials, name)["dense"]
        for name in ("difference", "difference_windows", "on_canvas", "cut_out", "times_fewer_macs")
    }
    correct, low, high = mean_interval(100 * found["on_canvas"], within=(0, 100))
    first = trials["dense"][0].measured
    height, width = first["scores"].shape[1:]
    largest, largest_windows = found["difference"].max(), found["difference_windows"].max()
    ratio = float(found["times_fewer_macs"][0])
    return Finding(
        answer=sentence(
            f"as convolutions the networks give {_same(largest)} logits, and on a canvas of "
            f"{ROWS * CELL_PX}x{COLUMNS * CELL_PX} pixels {_same(largest_windows)} {height}x{width} scores as for "
            f"every window cut out, for {ratio:.1f} times fewer operations",
            f"of {ROWS * COLUMNS} digits they classify {correct:.0f} % correctly in the digit's own window "
            f"({low:.0f} to {high:.0f}, {setting.seeds} seeds)",
        ),
        method=f"{setting.seeds} networks with two dense layers, trained on the same digits and converted to "
        "convolutions. Each is compared with its original on all test images, and on windows at every "
        f"{STRIDE}th pixel of a canvas with {ROWS * COLUMNS} test digits. Intervals are 95 %, over seeds.",
        panels=(
            _probability_map(first),
            seed_intervals(
                "Correctly classified digits",
                "fraction of the digits, %",
                {
                    "in their window of the canvas": 100 * found["on_canvas"],
                    "cut out and given to the dense network": 100 * found["cut_out"],
                },
            ),
            Table(
                "Largest difference of a logit",
                ("seed", "on images of the original size", "on windows of the canvas"),
                tuple(
                    (str(seed), f"{found['difference'][seed]:.1e}", f"{found['difference_windows'][seed]:.1e}")
                    for seed in range(setting.seeds)
                ),
            ),
            setup_table(trials),
        ),
        numbers={
            "largest_difference": float(largest),
            "largest_difference_windows": float(largest_windows),
            "accuracy_on_canvas": found["on_canvas"].tolist(),
            "accuracy_cut_out": found["cut_out"].tolist(),
            "times_fewer_macs": ratio,
            "score_map": [height, width],
        },
    )


def _same(difference: float) -> str:
    """Return whether numbers are the same; by how little they differ depends on the processor."""
    return f"the same (within {TOLERANCE:g})" if difference < TOLERANCE else "other"


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return how much the two forms of a network differ, the canvas, its scores, and the accuracy on its digits."""
    images, device = prepared.images, prepared.device
    data = make_resident(images, prepared.splits.test, device)
    convolutional = to_convolutional(prepared.network, images.shape)
    chosen = data.select()
    canvas, places, labels = compose(chosen.numpy(), data.labels.numpy())
    with eval_mode(prepared.network), torch.inference_mode():
        x = prepared.preprocessing.apply(chosen)
        difference = (convolutional(x).flatten(1) - prepared.network(x)).abs().max()
        whole = prepared.preprocessing.apply(torch.from_numpy(canvas)[None])
        scores = convolutional(whole)[0]
        windows = whole[0].unfold(1, SIDE, STRIDE).unfold(2, SIDE, STRIDE).permute(1, 2, 0, 3, 4)
        alone = prepared.network(windows.reshape(-1, *images.shape)).view(*windows.shape[:2], -1)
    rows, columns = (places // STRIDE).T
    on_canvas, cut_out = scores.argmax(0).numpy()[rows, columns], alone.argmax(2).numpy()[rows, columns]
    macs = windows.shape[0] * windows.shape[1] * prepared.macs / count_macs(convolutional, (1, *canvas.shape[:2]))
    return {
        "difference": np.float64(difference),
        "difference_windows": np.float64((scores.permute(1, 2, 0) - alone).abs().max()),
        "on_canvas": np.float64((on_canvas == labels).mean()),
        "cut_out": np.float64((cut_out == labels).mean()),
        "times_fewer_macs": np.float64(macs),
        "canvas": canvas,
        "scores": scores.softmax(0).numpy(),
    }


def compose(
    images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return a canvas with digits, uint8 [H, W, 1], the corner (row, column) of each [M, 2], and their labels [M].

    Args:
        images: uint8 [N, 28, 28, 1], at least M of them.
    """
    canvas = np.zeros((ROWS * CELL_PX, COLUMNS * CELL_PX, 1), np.uint8)
    chosen = permutation(len(images), "canvas")[: ROWS * COLUMNS]
    room = (CELL_PX - SIDE) // STRIDE + 1
    places = []
    for cell, index in enumerate(chosen):
        down, right = permutation(room, "row", cell)[0], permutation(room, "column", cell)[0]
        top = cell // COLUMNS * CELL_PX + STRIDE * int(down)
        left = cell % COLUMNS * CELL_PX + STRIDE * int(right)
        canvas[top : top + SIDE, left : left + SIDE] = images[index]
        places.append((top, left))
    return canvas, np.array(places), labels[chosen]


def _probability_map(first: Mapping[str, NDArray[Any]]) -> Heat:
    """Return the canvas under the probability of some classes; each score is drawn at the centre of its window."""
    border = (SIDE - STRIDE) // 2 // STRIDE
    heats = np.pad(first["scores"], ((0, 0), (border, border), (border, border)))
    return Heat(
        "Where the network sees a class (first seed)",
        np.asarray(first["canvas"], np.uint8),
        tuple(heats[k].astype(np.float32) for k in DRAWN),
        tuple(f"probability of {k} in the window around each place" for k in DRAWN),
    )


LAB = Lab(
    "Can a network with dense layers be applied to larger images?",
    "The colours over the canvas show how probable a class is in the window around each place; the network was "
    "trained on single digits.",
    run,
    seeds=5,
)
