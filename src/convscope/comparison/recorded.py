"""Finished runs: read them, check that they are comparable, and group them into networks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.config import STACK, RunConfig, config_to_json
from convscope.errors import RunError, command
from convscope.storage.files import read_csv, read_json
from convscope.storage.run_folder import read_config
from convscope.storage.schemas import damaged

NO_DIFFERENCE = {"data.source", "data.data_dir", "train.seed"}
"""What may differ between runs of one network, beside how it is computed: its seed and where the data lie."""
PRECISION = "compute.precision"
"""The one thing in how a run is computed that makes another network of it."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with results.

    Args:
        results: results.json.
        images: ids of the N test images; `true` and `predicted` are their classes.
        correct: which predictions are correct, bool [N].
    """

    folder: str
    config: RunConfig
    results: Mapping[str, Any]
    images: tuple[str, ...]
    true: tuple[str, ...]
    predicted: tuple[str, ...]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """The runs of one network, in the order of their seeds."""

    label: str
    runs: tuple[FinishedRun, ...]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which predictions of each run are correct, bool [K, N]."""
        return np.stack([run.correct for run in self.runs])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(run.config.train.seed for run in self.runs)


def load_finished_run(folder: Path) -> FinishedRun:
    """Return a run with its predictions.

    Raises:
        RunError: the folder holds no run, or the run is not finished.
    """
    config = read_config(folder)
    if not (folder / "results.json").exists():
        raise RunError(f"{folder} is not finished; finish it with: {command('train', '--resume', folder)}")
    rows = read_csv(folder / "predictions.csv")
    if not rows:
        raise damaged(f"{folder / 'predictions.csv'} has no rows")
    true, predicted = (tuple(row[column] for row in rows) for column in ("true", "predicted"))
    return FinishedRun(
        folder=str(folder),
        config=config,
        results=read_json(folder / "results.json"),
        images=tuple(row["image"] for row in rows),
        true=true,
        predicted=predicted,
        correct=np.array([t == p for t, p in zip(true, predicted, strict=True)], dtype=bool),
    )


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs with different data, and runs that repeat each other.

    Raises:
        RunError: names two of the runs and what differs.
    """
    if len(runs) < 2:
        raise RunError(f"one run ({runs[0].folder}) cannot be compared; name two or more")
    first, identities = runs[0], dict[str, str]()
    for run in runs:
        if run.results["split_sha256"] != first.results["split_sha256"]:
            raise RunError(
                f"{first.folder} and {run.folder} do not have the same images in the same splits "
                f"({_data_text(first)}; {_data_text(run)}), so their accuracies cannot be compared; train both on the "
                "same data with the same --split, --split-seed and --per-class"
            )
        if (run.images, run.true) != (first.images, first.true):
            raise RunError(
                f"{first.folder} and {run.folder} were measured on different images ({len(first.images)} of the "
                f"{first.results['split']} split, {len(run.images)} of the {run.results['split']} split); measure the "
                f"second again: {command('evaluate', run.folder)}"
            )
        identity = json.dumps([network_key(run.config), run.config.train.seed])
        if identity in identities:
            raise RunError(
                f"{identities[identity]} and {run.folder} are the same network with the same options and seed "
                f"{run.config.train.seed}: one repeats the other. Leave one out, or train with another --seed"
            )
        identities[identity] = run.folder


def group_runs(runs: Iterable[FinishedRun]) -> list[Group]:
    """Return the networks in the order of their first runs; if all runs are of one network, each is its own group."""
    runs = list(runs)
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(network_key(run.config), []).append(run)
    members = list(groups.values()) if len(groups) > 1 else [[run] for run in runs]
    labels = name_configs([of_one[0].config for of_one in members])
    return [
        Group(label, tuple(sorted(of_one, key=lambda run: run.config.train.seed)))
        for label, of_one in zip(labels, members, strict=True)
    ]


def network_key(config: RunConfig) -> str:
    """Return a text that is the same for runs that differ in nothing but their seed and where they were computed."""
    return json.dumps({key: value for key, value in _flat(config).items() if _tells_apart(key)})


def name_configs(configs: Sequence[RunConfig]) -> list[str]:
    """Return a name for each configuration: its network, and the options that differ from others of that network.

    Options are written as `--vary` takes them, for example `cnn normalize=off`.
    """
    names = [config.model.stack if config.model.name == STACK else config.model.name for config in configs]
    labels = []
    for name, config in zip(names, configs, strict=True):
        same_name = [_flat(other) for other_name, other in zip(names, configs, strict=True) if other_name == name]
        mine = _flat(config)
        differing = [key for key in mine if len({json.dumps(other[key]) for other in same_name}) > 1]
        if differing != ["train.seed"]:
            differing = list(filter(_tells_apart, differing))
        options = [f"{key.partition('.')[2]}={option_text(mine[key])}" for key in differing]
        labels.append(" ".join([str(name), *options]))
    return labels


def option_text(value: object) -> str:
    """Return the value of an option as `--vary` takes it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "+".join(map(option_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tells_apart(key: str) -> bool:
    """Return whether runs that differ in this are of different networks: not where it only says how to compute."""
    return key not in NO_DIFFERENCE and (key == PRECISION or not key.startswith("compute."))


def _flat(config: RunConfig) -> dict[str, Any]:
    tree = config_to_json(config)
    return {f"{section}.{name}": value for section, values in tree.items() for name, value in values.items()}


def _data_text(run: FinishedRun) -> str:
    return f"{run.results['data']}, {len(run.images):,} {run.results['split']} images"
