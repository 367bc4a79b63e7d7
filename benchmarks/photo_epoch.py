"""P7: the second pass over a folder of photos, ours against torchvision's ImageFolder with a DataLoader, in turn.

Both sides deliver every image once, in random order, as normalized float32 batches of 32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from harness import peer, run_process, summarize, write_results

from convscope.config import DataConfig, TrainConfig
from convscope.data.batches import make_preprocessing, make_resident, training_batches
from convscope.data.load import load_images
from convscope.device import has_idle_processor, keep_freed_memory

SIZES = (64, 224)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pass_over(folder: str, size: int) -> dict[str, float]:
    """Return seconds of a whole pass and of its first part, from the folder to the ImageSet."""
    keep_freed_memory()  # as every training does
    start = time.perf_counter()
    images = load_images(DataConfig(source=folder, image_size=size))
    loaded = time.perf_counter() - start
    data = make_resident(images, np.arange(len(images)), torch.device("cpu"))
    preprocessing = make_preprocessing(MEAN, STD, normalize=True)
    count, total = 0, 0.0
    ahead = has_idle_processor()  # as the training loop does
    for x, labels, _ in training_batches(data, preprocessing, TrainConfig(batch_size=32, seed=0), epoch=1, ahead=ahead):
        count += len(labels)
        total += float(x[:, :, size // 2, size // 2].sum())
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "load_seconds": loaded, "count": count, "mean": total / (3 * count)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path, help="zip of class folders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help="pass once over the folder at this size, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(pass_over(str(options.archive), options.one)))
        return
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        folder = Path(place) / "photos"
        with zipfile.ZipFile(options.archive) as archive:
            whole = [member for member in archive.infolist() if member.file_size]  # ImageFolder stops at empty files
            archive.extractall(folder, [member for member in whole if member.filename.endswith(".jpg")])
        while len(inside := list(folder.iterdir())) == 1:
            folder = inside[0]
        for size in options.sizes:
            ours = [sys.executable, __file__, str(folder), "--one", str(size)]
            theirs = peer("image_folder.py", folder, "--image-size", str(size))
            first, _ = run_process(ours)
            passes: dict[str, list[dict[str, float]]] = {"torchvision": [], "workers": [], "convscope": []}
            for _ in range(options.rounds):
                passes["torchvision"].append(run_process(theirs)[0])
                passes["workers"].append(run_process([*theirs, "--workers", "2"])[0])
                passes["convscope"].append(run_process(ours)[0])
                print(size, {side: round(found[-1]["seconds"], 3) for side, found in passes.items()}, flush=True)
            rows.append(_row(size, first, passes))
            raw[str(size)] = {"first": first, **passes}
    write_results(
        "photo_epoch",
        f"The second pass over a folder of {int(first['count']):,} photos",
        "Fresh processes in turn. Seconds from the folder to the last of the normalized float32 batches of 32 in "
        "random order; imports are left out on both sides, listing the folder is in. The files are in the page cache. "
        "Ours had passed over the folder once before, which is the first pass; torchvision decodes in each. Medians "
        "(range); the ratio is to torchvision's faster setting. The mean of the centre pixels after normalization "
        "is a rough check that the images are the same. Empty files are left out: ImageFolder stops at them.",
        ("size", "ImageFolder", "with 2 workers", "convscope", "of it loading", "ratio", "first pass", "n", "means"),
        rows,
        {"passes": raw},
    )


def _row(size: int, first: dict[str, float], passes: dict[str, list[dict[str, float]]]) -> list[str]:
    seconds = {side: summarize([found["seconds"] for found in runs]) for side, runs in passes.items()}
    loading = summarize([found["load_seconds"] for found in passes["convscope"]])
    best = min(seconds["torchvision"]["median"], seconds["workers"]["median"])
    shown = {side: f"{s['median']:.3f} s ({s['min']:.3f} to {s['max']:.3f})" for side, s in seconds.items()}
    means = f"{passes['torchvision'][0]['mean']:.3f} / {passes['convscope'][0]['mean']:.3f}"
    return [
        f"{size} px",
        shown["torchvision"],
        shown["workers"],
        shown["convscope"],
        f"{loading['median']:.3f} s",
        f"{best / seconds['convscope']['median']:.0f}x",
        f"{first['seconds']:.2f} s",
        str(seconds["convscope"]["n"]),
        means,
    ]


if __name__ == "__main__":
    main()
