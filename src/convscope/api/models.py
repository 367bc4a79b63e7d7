"""Networks by name, as a list."""

from fnmatch import fnmatchcase
from typing import Any

from convscope.config import ModelConfig, check_range
from convscope.device import process_unchanged
from convscope.memory.macs import count_macs
from convscope.models import MODELS, build_shapes, count_parameters, find_model
from convscope.models.spec import ModelSpec
from convscope.models.zoo.catalog import count_zoo_parameters, zoo_names
from convscope.models.zoo.pretrained import weights_status
from convscope.torch_internals import without_compiler

MODELS_LISTED = 40
"""Up to this many networks of torchvision and timm are listed at a time."""


@process_unchanged()
def list_models(pattern: str | None = None, *, limit: int = MODELS_LISTED) -> tuple[list[dict[str, Any]], int]:
    """Return the networks whose names match a shell pattern, one dict each, and how many more there are.

    Without a pattern they are our own; with one, those of torchvision and timm as well, which takes seconds to import.
    Operations are counted for our own only.

    Args:
        limit: at most this many of torchvision and timm.
    """
    check_range("limit", limit, least=0)
    found: list[tuple[str, ModelSpec, int | None, int | None, str | None]] = []
    for name, spec in MODELS.items():
        if fnmatchcase(name, "*" if pattern is None else pattern):
            network = build_shapes(ModelConfig(name=name), spec.native_shape, spec.native_classes)
            with without_compiler():
                macs = count_macs(network, spec.native_shape)
            found.append((name, spec, count_parameters(network), macs, None))
    names = [] if pattern is None else zoo_names(pattern)
    for name in names[:limit]:
        found.append((name, find_model(name), count_zoo_parameters(name), None, weights_status(name)))
    rows = [
        {
            "model": name,
            "input": "x".join(map(str, spec.native_shape)),
            "num_params": num_params,
            "macs": macs,
            "weights": weights,
            "description": spec.description,
        }
        for name, spec, num_params, macs, weights in found
    ]
    return rows, max(0, len(names) - limit)
