"""Networks trained for an experiment: every variant with every seed, as many at once as there are processors.

Each is trained on one thread by the same code as `convscope train`, so what comes out depends neither on the number of
processors nor on what else is computed at the time.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray

from convscope.comparison.recorded import FinishedRun, Group
from convscope.config import STACK, DataConfig, ModelConfig, RunConfig, TrainConfig
from convscope.data import load_images
from convscope.data.image_set import ImageSet
from convscope.errors import Interrupted
from convscope.lab.experiment import Setting
from convscope.models import count_parameters
from convscope.processors import jobs_at_once
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results import EpochRecord
from convscope.workflow import Prepared, prepare, train_prepared

PER_CLASS = 100
"""Pictures of each class to train on (a tenth of them for validation), and as many to test on, of mnist5k.

With few pictures there is something to gain; with all 400 most networks are right on 97 to 98 %.
"""
QUICK_PER_CLASS = 8
TRAINING: Mapping[str, Any] = {"epochs": 12, "batch_size": 32, "lr": 3e-3}
"""How networks are trained where the experiment is about something else."""
Measure = Callable[[Prepared], Mapping[str, NDArray[Any]]]
"""Measures a trained network beyond its test accuracy; a function of a module, so that another process can call it."""
Change = Callable[[ImageSet], ImageSet]
"""Makes other pictures of those to train on."""


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    Args:
        config: how it is trained; its seed does not count.
        change: what is done to the data before they are split; None: nothing.
    """

    name: str
    config: RunConfig
    change: Change | None = None


@dataclass(frozen=True)
class Trial:
    """A variant trained with one seed and measured on the test part.

    Args:
        measured: what `measure` gave.
    """

    run: FinishedRun
    history: tuple[EpochRecord, ...]
    measured: Mapping[str, NDArray[Any]]


def make_variant(
    name: str,
    stack: str | None = None,
    *,
    model: str = STACK,
    change: Change | None = None,
    per_class: int | None = PER_CLASS,
    **train: Any,  # noqa: ANN401
) -> Variant:
    """Return a variant that is trained on mnist5k.

    Args:
        stack: the network in the one-line notation; None takes `model` by name.
        train: fields of TrainConfig where they differ from TRAINING.
    """
    return Variant(
        name,
        RunConfig(
            data=DataConfig(source="mnist5k", per_class=per_class),
            model=ModelConfig(name=model, stack=stack),
            train=TrainConfig(**{**TRAINING, **train}, threads=1, device="cpu"),
        ),
        change,
    )


def run_trials(
    variants: Sequence[Variant], setting: Setting, on_progress: OnProgress, *, measure: Measure | None = None
) -> list[tuple[Trial, ...]]:
    """Return the trials of each variant, in the order of their seeds.

    Raises:
        Interrupted: a stop was asked for.
        ConvscopeError: a network could not be trained.
    """
    tasks = [(_seeded(variant, seed, setting), measure) for variant in variants for seed in range(setting.seeds)]
    trials = []
    try:
        for trial in _in_processes(tasks, jobs_at_once([None] * len(tasks)) if setting.jobs is None else setting.jobs):
            trials.append(trial)
            on_progress(Progress(f"training {len(tasks)} networks", len(trials), len(tasks), "networks"))
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("stopped; of an experiment that is not finished nothing is kept, start it anew") from None
    return [tuple(trials[at : at + setting.seeds]) for at in range(0, len(trials), setting.seeds)]


def group_of(name: str, trials: Sequence[Trial]) -> Group:
    """Return the trials of a variant as a comparison takes them."""
    return Group(name, tuple(trial.run for trial in trials))


def measured(trials: Sequence[Trial], name: str) -> NDArray[np.float64]:
    """Return what was measured under this name, one row a seed: float64 [seeds, ...]."""
    return np.stack([np.asarray(trial.measured[name], np.float64) for trial in trials])


def _seeded(variant: Variant, seed: int, setting: Setting) -> Variant:
    config = replace(variant.config, train=replace(variant.config.train, seed=seed))
    if setting.quick:
        quick_data = replace(config.data, per_class=QUICK_PER_CLASS)
        config = replace(config, data=quick_data, train=replace(config.train, epochs=1))
    return replace(variant, config=config)


def _in_processes(tasks: Sequence[tuple[Variant, Measure | None]], jobs: int) -> Iterator[Trial]:
    """Yield the trials in the order of the tasks."""
    with warnings.catch_warnings(), parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)  # loky renews large ones
        yield from Parallel(return_as="generator")(delayed(_run)(*task) for task in tasks)


def _run(variant: Variant, measure: Measure | None) -> Trial:
    config = variant.config
    images = _load(config.data)
    images = images if variant.change is None else variant.change(images)
    prepared = prepare(config, ignore_progress, images=images)
    part = prepared.evaluation_part
    indices = getattr(prepared.splits, part)
    with tempfile.TemporaryDirectory() as folder:
        trained, (answered,) = train_prepared(
            Path(folder), prepared, (indices,), resume=False, on_progress=ignore_progress
        )
    labels, predicted = images.labels[indices], answered.logits.argmax(axis=1)
    run = FinishedRun(
        folder="",
        config=config,
        results={
            "data": images.name,
            "part": part,
            "num_params": count_parameters(prepared.network),
            "macs": prepared.macs,
            "train_seconds": trained.train_seconds,
            "peak_memory_bytes": None,
        },
        pictures=tuple(images.ids[i] for i in indices),
        true=tuple(images.class_names[k] for k in labels),
        predicted=tuple(images.class_names[k] for k in predicted),
        right=labels == predicted,
    )
    return Trial(run, trained.history, {} if measure is None else measure(prepared))


@lru_cache(maxsize=2)
def _load(config: DataConfig) -> ImageSet:
    return load_images(config)
