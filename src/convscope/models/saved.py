"""The trained network as it is shipped: model.safetensors and model.json, no pickle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convscope.config import HeadKind, ModelConfig
from convscope.errors import RunError, UsageError
from convscope.models import MODELS, build_model, build_shapes
from convscope.models.spec import InputShape
from convscope.models.surgery.subsampled import subsample_before_convolution
from convscope.storage.files import read_json, write_bytes, write_json
from convscope.storage.run_start import check_schema
from convscope.storage.schemas import damaged
from convscope.storage.tensors import check_tensors, read_into, stream_tensors


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
    try:
        config = ModelConfig(
            name=architecture["name"], stack=architecture.get("stack"), head=architecture.get("head", "linear")
        )
        network = _load_network(path, config, (channels, height, width), architecture["num_classes"])
    except UsageError as error:
        raise damaged(f"{run / 'model.json'}: {error}") from error
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
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


def _load_network(path: Path, config: ModelConfig, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a network with the weights of a file, which are finite.

    Raises:
        UsageError: there is no such network.
        ValueError, OSError: the file does not hold its weights.
    """
    if config.stack is not None or config.name in MODELS:  # model.json may ask for any size: the weights say which
        check_tensors(path, build_shapes(config, input_shape, num_classes).state_dict())
    network = build_model(config, input_shape, num_classes)
    weights = network.state_dict()
    read_into(path, weights)
    for name, values in weights.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise ValueError(f"{name} holds numbers that are not finite (NaN or infinity)")
    return network


def preprocessing_to_json(input_shape: InputShape, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return what is done to an image before the network sees it, as run.json and model.json record it."""
    channels, height, width = input_shape
    return {"image_size": [height, width], "channels": channels, "mean": mean, "std": std}


def channels_last(model: nn.Module) -> nn.Module:
    """Return the model with its convolution weights in channels-last order: the same results, faster pooling.

    All networks that compute pass here. Layers for which oneDNN is not safe in this order are computed in another way.
    """
    model = subsample_before_convolution(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:  # `model.to` would want this of the five axes of a Conv3d too, and fail
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model
