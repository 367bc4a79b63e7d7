"""Classes of photos as a model card of timm shows it: the eager network, timm's own transform, batches of 32.

Prints one JSON object: the best class of each image, as its number.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file

BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", help="safetensors file of the network's weights")
    parser.add_argument("paths", type=Path, nargs="+", help="images and folders of images")
    options = parser.parse_args()
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(load_file(options.weights))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    files = [file for path in options.paths for file in (sorted(path.rglob("*.*")) if path.is_dir() else [path])]
    found: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH_SIZE):
            batch = [transform(Image.open(file).convert("RGB")) for file in files[start : start + BATCH_SIZE]]
            found += model(torch.stack(batch)).softmax(dim=1).argmax(dim=1).tolist()
    print(json.dumps({"classes": found}))


if __name__ == "__main__":
    main()
