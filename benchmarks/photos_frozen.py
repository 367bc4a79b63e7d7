"""P6: from an archive of photos to an evaluated classifier, frozen backbone, against five epochs in fastai, in turn.

What was measured is kept in a file, so that a long benchmark can be measured in pieces on a machine that is shared;
the table is drawn from all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from harness import convscope, mean_and_deviation, run_process, summarize, write_results

EPOCHS = 5
"""Of the peer; the time of one is measured, its accuracy only after all of them on all images."""
NORMS = ("learning", "frozen")
"""What the peer does with the batch norms of the frozen backbone: as it comes it lets them learn."""


def classify(archive: Path, place: Path, split: int) -> dict[str, Any]:
    """Return what a first run on one split took and reached, and another head on the features it left."""
    os.environ["XDG_CACHE_HOME"] = str(place / f"cache-{split}")
    train = convscope("train", archive, "--model", "efficientnet_lite0", "--pretrained", "--split-seed", str(split))
    first, seconds = run_process([*train, "--out", str(place / f"first-{split}"), "--json"])
    more = ("--class-weights", "balanced", "--out", str(place / f"second-{split}"), "--json")
    second, second_seconds = run_process([*train, *more])
    return {
        "accuracy": first["accuracy"]["value"],
        "seconds": seconds,
        "second_head_seconds": second["train_seconds"],
        "second_seconds": second_seconds,
        "second_accuracy": second["accuracy"]["value"],
    }


def fine_tune(
    python: Path, archive: Path, place: Path, split: int, share: float, epochs: int, norms: str
) -> dict[str, Any]:
    """Return what an epoch of the peer took on a share of the images, in the parts of our run on this split."""
    folder = place / "photos"
    if not folder.exists():
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    script = str(Path(__file__).parent / "peers" / "fastai_frozen.py")
    parts = str(place / f"first-{split}" / "split.csv")
    command = [str(python), script, str(folder), parts, "--epochs", str(epochs), "--seed", str(split)]
    command += ["--share", str(share), *(["--freeze-norms"] if norms == "frozen" else [])]
    return run_process(command)[0] | {"split": split, "share": share, "epochs": epochs, "norms": norms}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path, help="zip of class folders")
    parser.add_argument("--name", default="photos_frozen", help="of the result files")
    parser.add_argument("--splits", type=int, nargs="*", default=range(5))
    parser.add_argument("--fastai", type=Path, help="a Python that has fastai as well; without it no peer is measured")
    parser.add_argument("--share", type=float, default=1.0, help="of the images that the peer's epoch is measured on")
    parser.add_argument("--epochs", type=int, default=1, help=f"of the peer; {EPOCHS} on all images give its accuracy")
    parser.add_argument("--norms", nargs="*", choices=NORMS, default=NORMS, help="the peer's batch norms")
    parser.add_argument("--measured", type=Path, required=True, help="JSON file that keeps what was measured")
    options = parser.parse_args()
    kept = options.measured
    measured: dict[str, list[dict[str, Any]]] = (
        json.loads(kept.read_text()) if kept.exists() else {"convscope": [], "fastai": []}
    )
    with tempfile.TemporaryDirectory() as name:
        for split in options.splits:
            measured["convscope"].append(classify(options.archive, Path(name), split) | {"split": split})
            print(measured["convscope"][-1], file=sys.stderr, flush=True)
            kept.write_text(json.dumps(measured))
            for norms in options.norms if options.fastai else ():
                done = fine_tune(
                    options.fastai, options.archive, Path(name), split, options.share, options.epochs, norms
                )
                measured["fastai"].append(done)
                print(measured["fastai"][-1], file=sys.stderr, flush=True)
                kept.write_text(json.dumps(measured))
    _write(options.name, options.archive.name, measured)


def _write(name: str, archive: str, measured: dict[str, list[dict[str, Any]]]) -> None:
    ours = measured["convscope"]
    first = [run["seconds"] for run in ours]
    rows = [
        ["convscope, from the archive", _seconds(first), "", _accuracy(ours, "accuracy"), ""],
        [
            "another head, features kept",
            _seconds([run["second_seconds"] for run in ours]),
            _seconds([run["second_head_seconds"] for run in ours]),
            _accuracy(ours, "second_accuracy"),
            "",
        ],
    ]
    for norms in NORMS:
        theirs = [run for run in measured["fastai"] if run["norms"] == norms]
        if theirs:
            epoch = [run["epoch_seconds"] / run["share"] for run in theirs]
            whole = [run for run in theirs if (run["epochs"], run["share"]) == (EPOCHS, 1.0)]
            ratio = EPOCHS * summarize(epoch)["median"] / summarize(first)["median"]
            accuracy = _accuracy(whole, "accuracy") if whole else ""
            rows.append([f"fastai, an epoch, batch norms {norms}", _seconds(epoch), "", accuracy, f"{ratio:.0f}x"])
    write_results(
        name,
        f"{archive}: a frozen EfficientNet-Lite0 and a head, for {len({run['split'] for run in ours})} splits",
        "Whole processes, imports, decoding, export to ONNX, its check and the report included, with an empty cache; "
        "then once more with other class weights, where decoded images and features are kept: the whole process, and "
        "of it loading the features and fitting the head. fastai: the same weights frozen, its own head, batches of "
        "64, an epoch with validation and without imports, measured on all images or on a share of them and divided "
        "by it (the JSON file says which); as it comes it lets the backbone's batch norms learn, with BnFreeze they "
        f"are frozen too. Its accuracy is that after {EPOCHS} epochs on all images. Ratio: {EPOCHS} of its epochs to "
        "convscope from the archive. Seconds: median (range); accuracy on the test split, mean ± deviation over the "
        "splits.",
        ("what", "seconds", "of it the head", "accuracy", f"{EPOCHS} epochs"),
        rows,
        {"measured": measured},
    )


def _accuracy(runs: list[dict[str, Any]], key: str) -> str:
    """Return the accuracy over splits, one that was run twice counting once."""
    return mean_and_deviation(list({run["split"]: run[key] for run in runs}.values()))


def _seconds(values: list[float]) -> str:
    found = summarize(values)
    return f"{found['median']:.1f} s ({found['min']:.1f} to {found['max']:.1f}), n {found['n']}"


if __name__ == "__main__":
    main()
