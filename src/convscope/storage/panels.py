"""Panels on disk: one .npz file with the arrays, and everything else in it as JSON; no pickle."""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from convscope.results.panels import Line, Panel, Point
from convscope.storage.files import parse_json, read_arrays, write_arrays
from convscope.storage.schemas import damaged

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (*get_args(Panel), Line, Point)}


def write_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels to a file."""
    arrays: list[NDArray[Any]] = []
    tree = json.dumps([_to_tree(panel, arrays) for panel in panels], allow_nan=False)
    write_arrays(path, {"panels": np.array(tree)} | {f"array{i}": array for i, array in enumerate(arrays)})


def read_panels(path: Path) -> tuple[Panel, ...] | None:
    """Return the panels of a file; None if there is no such file. Raises RunError if it holds anything else."""
    if not path.exists():
        return None
    arrays = read_arrays(path)
    try:
        return tuple(_from_tree(tree, arrays) for tree in parse_json(str(arrays["panels"])))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(f"{path} does not hold panels ({error})") from error


def _to_tree(value: Any, arrays: list[NDArray[Any]]) -> Any:  # noqa: ANN401
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if is_dataclass(value):
        named = {field.name: _to_tree(getattr(value, field.name), arrays) for field in fields(value)}
        return {"kind": type(value).__name__, "fields": named}
    return [_to_tree(each, arrays) for each in value] if isinstance(value, tuple) else value


def _from_tree(tree: Any, arrays: Any) -> Any:  # noqa: ANN401
    if isinstance(tree, list):
        return tuple(_from_tree(each, arrays) for each in tree)
    if isinstance(tree, dict) and "array" in tree:
        return arrays[f"array{tree['array']}"]
    if isinstance(tree, dict):
        return _KINDS[tree["kind"]](**{name: _from_tree(each, arrays) for name, each in tree["fields"].items()})
    return tree
