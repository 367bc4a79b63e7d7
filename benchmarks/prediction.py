"""P8 and P9: the classes of one photo and of a folder, ours against an eager torch + timm script, processes in turn."""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from harness import convscope, peer, run_process, summarize, write_results
from safetensors.torch import save_file

from convscope.config import ModelConfig
from convscope.models import build_model
from convscope.models.zoo.pretrained import pretrained_class_names

NETWORK = "efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", type=Path, help="folder of photos of ImageNet")
    parser.add_argument("archive", type=Path, help="zip of photos")
    parser.add_argument("--images", type=int, default=200, help="of the archive")
    parser.add_argument("--single-rounds", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = place / "weights.safetensors"
        network = build_model(ModelConfig(name=NETWORK, pretrained=True), (3, 224, 224), 1000)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, weights)
        photos = place / "photos"
        with zipfile.ZipFile(options.archive) as archive:
            whole = [member for member in archive.infolist() if member.file_size and member.filename.endswith(".jpg")]
            step = max(1, len(whole) // options.images)
            archive.extractall(photos, whole[::step][: options.images])
        single = min(options.samples.iterdir())
        run_process([*convscope("predict", NETWORK, single), "--json"])  # writes the model file, once
        tasks = (
            ("one photo", single, options.single_rounds),
            (options.samples.name, options.samples, options.rounds),
            (options.archive.stem, photos, options.rounds),
        )
        measured = {title: _measure(path, weights, rounds) for title, path, rounds in tasks}
    write_results(
        "prediction",
        "Classes of photos from their files",
        "Whole processes in turn, imports, decoding and output included; files are in the page cache, our model file "
        "is written. The script is timm's own transform and its eager network in batches of 32, with the same weights. "
        "Medians (range). Agreement is the share of photos with the same best class: the script resizes to 256 px and "
        "cuts out 224, we do both in one step.",
        ("photos", "torch + timm", "convscope", "ratio", "agreement", "n"),
        [_row(title, found) for title, found in measured.items()],
        {"measured": measured},
    )


def _measure(path: Path, weights: Path, rounds: int) -> dict[str, Any]:
    names = pretrained_class_names(NETWORK)
    found: dict[str, Any] = {"script": [], "convscope": []}
    for _ in range(rounds):
        theirs, seconds = run_process(peer("timm_predict.py", weights, path))
        found["script"].append(seconds)
        ours, seconds = run_process([*convscope("predict", NETWORK, path), "--json"])
        found["convscope"].append(seconds)
    labels = [answer["topk"][0]["label"] for answer in ours["predictions"]]
    agreeing = sum(names[index] == label for index, label in zip(theirs["classes"], labels, strict=True))
    return found | {"images": len(labels), "agreement": agreeing / len(labels)}


def _row(title: str, found: dict[str, Any]) -> list[str]:
    theirs, ours = summarize(found["script"]), summarize(found["convscope"])
    shown = [f"{side['median']:.2f} s ({side['min']:.2f} to {side['max']:.2f})" for side in (theirs, ours)]
    ratio = f"{theirs['median'] / ours['median']:.1f}x"
    return [f"{title}, {found['images']}", *shown, ratio, f"{found['agreement']:.1%}", str(ours["n"])]


if __name__ == "__main__":
    main()
