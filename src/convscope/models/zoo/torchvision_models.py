"""The classifiers of torchvision."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import nn

from convscope.models.spec import InputShape, PublishedPreprocessing
from convscope.models.zoo.weights import PublishedWeights, ZooNetwork, load_library

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

WITH_AUXILIARY_HEADS = {
    "googlenet": ("aux1.", "aux2."),
    "inception_v3": ("AuxLogits.",),
}
"""Networks of torchvision with auxiliary heads, and how the names of those heads' weights begin."""


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers."""
    models = load_library("torchvision.models")
    return tuple(models.list_models(module=models))


def find_in_torchvision(name: str, architecture: str, tag: str) -> ZooNetwork | None:
    """Return a classifier of torchvision, None if it has none of this name and tag."""
    if architecture not in torchvision_names():
        return None
    published: type[WeightsEnum] = load_library("torchvision.models").get_model_weights(architecture)
    by_tag = {key.lower(): weights for key, weights in published.__members__.items()}
    weights = by_tag.get(tag or "default")
    if weights is None:
        return None
    file = weights.url.rpartition("/")[2]
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", file)
    return ZooNetwork(
        name=name,
        library="torchvision",
        architecture=architecture,
        tag=weights.name.lower(),
        num_classes=len(weights.meta["categories"]),
        preprocessing=_torchvision_preprocessing(architecture, weights),
        weights=PublishedWeights(file, sha256=digits[1], url=weights.url) if digits else None,
        size_is_fixed=architecture.startswith(("vit_", "maxvit")),
    )


def _torchvision_preprocessing(architecture: str, weights: WeightsEnum) -> PublishedPreprocessing:
    preset = weights.transforms()
    scales_itself = architecture in WITH_AUXILIARY_HEADS  # to -1..1, whatever the normalization before
    return PublishedPreprocessing(
        mean=(0.5,) * 3 if scales_itself else tuple(preset.mean),
        std=(0.5,) * 3 if scales_itself else tuple(preset.std),
        image_size=preset.crop_size[0],
        crop_fraction=preset.crop_size[0] / preset.resize_size[0],
        interpolation=preset.interpolation.value,
    )


def construct_torchvision(network: ZooNetwork, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a classifier of torchvision for these inputs and classes."""
    options: dict[str, Any] = {}
    if network.architecture in WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "transform_input": False, "init_weights": True}
    if network.architecture.startswith("vit_"):
        options["image_size"] = input_shape[1]
    if network.architecture.startswith("maxvit"):
        options["input_size"] = input_shape[1:]
    build: Callable[..., nn.Module] = load_library("torchvision.models").get_model
    return build(network.architecture, weights=None, num_classes=num_classes, **options)


def current_name(network: ZooNetwork, tensor_name: str) -> str | None:
    """Return the name in the network of a tensor in torchvision's published file, None if the network lacks it.

    Files of DenseNet have names of an older version, with one more dot: `denselayer1.norm.1.weight`.
    """
    if tensor_name.startswith(WITH_AUXILIARY_HEADS.get(network.architecture, ("\0",))):
        return None
    if network.architecture.startswith("densenet"):
        return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", tensor_name)
    return tensor_name
