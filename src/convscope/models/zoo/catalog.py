"""The networks of torchvision and timm by name: what is known of them, and how one is built."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.eval_mode import eval_mode
from convscope.models.meta import shapes_only
from convscope.models.spec import InputShape, ModelSpec
from convscope.models.surgery.first_layer import set_input_channels
from convscope.models.zoo.timm_models import EFFICIENTNET_LITE0, construct_timm, find_in_timm, timm_names
from convscope.models.zoo.torchvision_models import construct_torchvision, find_in_torchvision, torchvision_names
from convscope.models.zoo.weights import EMBEDDED, IMAGENET_CLASSES, ZooNetwork, load_library


def find_network(name: str) -> ZooNetwork | None:
    """Return the network of torchvision or timm of this name, None if neither has it."""
    if name == EMBEDDED:
        return EFFICIENTNET_LITE0
    library, _, rest = name.rpartition("/")
    architecture, _, tag = rest.partition(".")
    if library in ("", "torchvision") and (found := find_in_torchvision(name, architecture, tag)):
        return found
    return find_in_timm(name, architecture, tag) if library in ("", "timm") else None


def find_zoo_spec(name: str) -> ModelSpec | None:
    """Return a network of torchvision or timm in the form of our own table, None if neither has it."""
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
    """Return the names that match a shell pattern, sorted; with their library in front if the pattern has a slash."""
    ours, theirs = torchvision_names(), timm_names()
    if "/" in pattern:
        names = {f"torchvision/{name}" for name in ours} | {f"timm/{name}" for name in theirs}
    else:
        names = {EMBEDDED, *ours, *theirs}
    return sorted(name for name in names if fnmatchcase(name, pattern))


def near_names(name: str) -> list[str]:
    """Return the names that a misspelled one is compared with: those with tags if it has one."""
    if "." not in name:
        return zoo_names("*/*") if "/" in name else zoo_names()
    prefix = name.rpartition("/")[0]
    with_tags: list[str] = load_library("timm").list_pretrained()
    return [f"{prefix}/{known}" for known in with_tags] if prefix else with_tags


def count_zoo_parameters(name: str) -> int | None:
    """Return the published number of parameters; None if the network cannot be built on the meta device."""
    network = find_network(name)
    assert network is not None, name
    size = network.preprocessing.image_size
    try:
        with shapes_only():
            model = _construct(network, (3, size, size), network.num_classes or IMAGENET_CLASSES)
    except RuntimeError:
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def build_network(
    network: ZooNetwork, input_shape: InputShape, num_classes: int, *, foreign: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return the network with random weights, for images of this shape.

    Args:
        foreign: published weights of a timm network, to be converted and loaded by timm itself.

    Raises:
        UsageError: the network does not take images of this shape.
    """
    remedy = f"use --image-size {network.preprocessing.image_size}, its own, or another --model"
    try:
        model = _construct(network, input_shape, num_classes, foreign)
        with eval_mode(model), torch.no_grad():
            logits = model(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UsageError(
            f"{network.library}'s {network.architecture} does not take images of {'x'.join(map(str, input_shape))} "
            f"(channels x height x width): {reason}; {remedy}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise UsageError(f"{network.library}'s {network.architecture} gives no logits, one for each class; {remedy}")
    return model


def build_network_shapes(network: ZooNetwork, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network on the meta device; with random weights if it cannot be built there."""
    try:
        with shapes_only():
            return _construct(network, input_shape, num_classes)
    except RuntimeError:
        return build_network(network, input_shape, num_classes)


def _construct(
    network: ZooNetwork, input_shape: InputShape, num_classes: int, foreign: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return the library's network for images of this shape."""
    if network.library == "torchvision":
        model = construct_torchvision(network, input_shape, num_classes)
    else:
        model = construct_timm(network, input_shape, num_classes, foreign)
    if input_shape[0] != 3:
        set_input_channels(model, input_shape[0])
    return model
