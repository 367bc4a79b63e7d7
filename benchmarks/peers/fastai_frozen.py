"""A classifier of photos as a fastai lesson makes it: frozen backbone, fresh head, a few epochs of one-cycle training.

Needs fastai (`pip install fastai`), which convscope does not. The network and its ImageNet weights are the ones that
convscope carries; images, parts and labels come from a run's split.csv. Prints one JSON object: seconds from the
folder of images to the accuracy on the test split, those of each epoch, imports left out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
from fastai.vision.all import (
    BnFreeze,
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    accuracy,
    create_head,
    params,
    set_seed,
)
from torch import nn

from convscope.config import ModelConfig
from convscope.models import build_model
from convscope.models.surgery.head import split_backbone


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("split", type=Path, help="split.csv of a run on the same images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the images of each part that is used, from 0 to 1")
    parser.add_argument(
        "--freeze-norms", action="store_true", help="the backbone's batch norms as well, which fastai lets learn"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    set_seed(options.seed, reproducible=True)
    table = pd.read_csv(options.split).groupby(["split", "label"]).sample(frac=options.share, random_state=0)
    learning = table[table["split"] != "test"].assign(is_valid=lambda part: part["split"] == "validation")
    test = table[table["split"] == "test"]
    loaders = ImageDataLoaders.from_df(
        learning,
        options.folder,
        fn_col="image",
        label_col="label",
        valid_col="is_valid",
        item_tfms=Resize(224),
        batch_tfms=Normalize.from_stats([0.5] * 3, [0.5] * 3),
        bs=64,
    )
    network = build_model(ModelConfig(name="efficientnet_lite0", pretrained=True), (3, 224, 224), loaders.c)
    backbone, _ = split_backbone(network)
    model = nn.Sequential(backbone, create_head(1280, loaders.c, pool=False))
    norms: dict[str, Any] = {"train_bn": False, "cbs": BnFreeze()} if options.freeze_norms else {}
    learner = Learner(loaders, model, splitter=lambda m: [params(m[0]), params(m[1])], metrics=accuracy, **norms)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        begun = time.perf_counter()
        learner.fit_one_cycle(options.epochs, 2e-3)
        epoch_seconds = (time.perf_counter() - begun) / options.epochs
        files = [options.folder / name for name in test["image"]]
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(files))
    names = [loaders.vocab[i] for i in probabilities.argmax(dim=1)]
    found = sum(name == label for name, label in zip(names, test["label"], strict=True))
    seconds = time.perf_counter() - start
    print(
        json.dumps({"seconds": seconds, "epoch_seconds": epoch_seconds, "accuracy": found / len(test), "n": len(table)})
    )


if __name__ == "__main__":
    main()
