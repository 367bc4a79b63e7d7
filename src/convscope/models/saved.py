"""The trained network as it is shipped: model.safetensors and model.json, no pickle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convscope.config import HeadKind, ModelConfig
from convscope.errors import RunError
from convscope.models import build_model
from convscope.models.spec import InputShape
from convscope.models.surgery.subsampled import subsample_before_convolution
from convscope.storage.files import read_json, write_bytes, write_json
from convscope.storage.run_start import check_schema
from convscope.storage.tensors import read_into, stream_tensors


@dataclass(frozen=True)
class SavedModel:
    """A network and what is needed to use it.

    Args:
        mean, std: of each channel in units of 0..1; input = (pixel / 255 - mean) / std.
        stack: the layers of a network that has no name, in the one-line notation.
    """

    network: nn.Module
    name: str
    input_shape: InputShape
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stack: str | None = None
    head: HeadKind = "linear"


def save_model(run: Path, model: SavedModel) -> None:
    """Write model.safetensors and model.json into a run folder."""
    description = {
        "architecture": {
            "name": model.name,
            "stack": model.stack,
            "head": model.head,
            "input_shape": model.input_shape,
            "num_classes": len(model.class_names),
        },
        "class_names": model.class_names,
        "preprocessing": preprocessing_to_json(model.input_shape, model.mean, model.std),
    }
    write_bytes(run / "model.safetensors", stream_tensors(model.network.state_dict()))
    write_json(run / "model.json", description)


def load_model(run: Path) -> SavedModel:
    """Return the network of a finished run, on the CPU and in evaluation mode.

    Raises:
        RunError: the run is not finished, another version wrote it, or its files do not fit one another.
    """
    check_schema(run)
    tree, path = read_json(run / "model.json"), run / "model.safetensors"
    architecture = tree["architecture"]
    channels, height, width = architecture["input_shape"]
    config = ModelConfig(
        name=architecture["name"], stack=architecture.get("stack"), head=architecture.get("head", "linear")
    )
    network = build_model(config, (channels, height, width), architecture["num_classes"])
    try:
        read_into(path, network.state_dict())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} does not hold the weights of model {architecture['name']!r}: {error}") from error
    return SavedModel(
        network=channels_last(network).eval(),
        name=config.name,
        stack=config.stack,
        head=config.head,
        input_shape=(channels, height, width),
        class_names=tuple(tree["class_names"]),
        mean=tuple(tree["preprocessing"]["mean"]),
        std=tuple(tree["preprocessing"]["std"]),
    )


def preprocessing_to_json(input_shape: InputShape, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return what is done to an image before the network sees it, as run.json and model.json record it."""
    channels, height, width = input_shape
    return {"image_size": [height, width], "channels": channels, "mean": mean, "std": std}


def channels_last(model: nn.Module) -> nn.Module:
    """Return the model with its convolution weights in channels-last order: the same results, faster pooling.

    All networks that compute pass here. Layers for which oneDNN is not safe in this order are computed in another way.
    """
    return subsample_before_convolution(model).to(memory_format=torch.channels_last)
