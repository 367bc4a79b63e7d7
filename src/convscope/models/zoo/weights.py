"""torchvision and timm, and what is known of a network of theirs and of its published weights."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Literal

from convscope.models.spec import PublishedPreprocessing
from convscope.torch_internals import without_compiler

Library = Literal["torchvision", "timm"]

EMBEDDED = "efficientnet_lite0"
"""The network whose trained weights need no download."""

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class PublishedWeights:
    """Trained weights in an installed package, at an address, or in a repository of the Hugging Face hub.

    Args:
        file: its name, also in our cache folder.
        sha256: the first digits of its hash; None if the hub reports it.
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
        name: as the user wrote it.
        tag: name of the set of weights; "" if there is only one, or none.
        size_is_fixed: whether it is built for one image size.
        num_classes: of its published weights; 0 if they have no head.
    """

    name: str
    library: Library
    architecture: str
    tag: str
    num_classes: int
    preprocessing: PublishedPreprocessing
    weights: PublishedWeights | None
    size_is_fixed: bool = False


@cache
def load_library(module: str) -> ModuleType:
    """Return "torchvision.models" or "timm", imported when first asked for, and without torch's compiler."""
    with without_compiler():
        return import_module(module)
