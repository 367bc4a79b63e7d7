"""The networks trained for an experiment: every variant with every seed, several at the same time.

The code of `convscope train` trains each of them on one thread. The results depend neither on the number of cores nor
on the load of the machine.
"""

import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope.comparison.recorded import FinishedRun, Group
from convscope.config import STACK, ComputeConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from convscope.cpu import jobs_at_once
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.errors import Interrupted, TrainingError, describe_exit
from convscope.experiments.experiment import Setting
from convscope.models import count_parameters
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.run import EpochRecord
from convscope.run.prepare import Prepared, prepare
from convscope.run.train import train_prepared
from convscope.training.interrupts import beyond_ctrl_c

PER_CLASS = 100
"""Images of each class of mnist5k for training, a tenth of them for validation.

So few leave room for improvement; with 400, most networks classify 97 to 98 % correctly.
"""
WIDER = 4
"""This many times PER_CLASS are all images of mnist5k; those not trained on, 4,000, are tested."""
QUICK_PER_CLASS = 5
TRAINING: Mapping[str, Any] = {"epochs": 12, "batch_size": 32, "lr": 3e-3}
"""Training options of experiments about something else."""
Measure = Callable[[Prepared], Mapping[str, NDArray[Any]]]
"""Measures a trained network beyond its test accuracy; a module-level function, which worker processes can import."""
Networks = Mapping[str, str | Callable[[], str]]
"""Name -> stack in the one-line notation; or a function that returns it, where it has to be computed."""
Change = Callable[[ImageSet], ImageSet]
"""Changes a data set before it is split."""


def keep_weights(network: nn.Module) -> None:
    """Leave the weights as they are."""


@dataclass(frozen=True)
class Variant:
    """One of the networks or trainings that an experiment compares.

    Args:
        config: how to train it; the seed is replaced.
        initialize: changes the weights that training starts from, in place; a module-level function, as `Measure`.
        note: what is special about its training that `config` does not say.
    """

    name: str
    config: RunConfig
    change: Change | None = None
    initialize: Callable[[nn.Module], None] = keep_weights
    note: str = ""


@dataclass(frozen=True)
class Trial:
    """A variant trained with one seed and measured on the test split.

    Args:
        variant: with the seed.
        measured: the result of the experiment's `measure`.
    """

    variant: Variant
    run: FinishedRun
    history: tuple[EpochRecord, ...]
    measured: Mapping[str, NDArray[Any]]


Trials = Mapping[str, tuple[Trial, ...]]
"""Name of a variant -> its trials, in the order of their seeds."""


def make_variant(
    name: str,
    stack: str | None = None,
    *,
    model: str = STACK,
    change: Change | None = None,
    initialize: Callable[[nn.Module], None] = keep_weights,
    note: str = "",
    per_class: int | None = PER_CLASS,
    **train: Any,  # noqa: ANN401
) -> Variant:
    """Return a variant trained on mnist5k.

    Args:
        stack: the network in the one-line notation; None builds `model` by name.
        train: fields of TrainConfig that differ from TRAINING.
    """
    return Variant(
        name,
        RunConfig(
            data=DataConfig(source="mnist5k", per_class=per_class),
            model=ModelConfig(name=model, stack=stack),
            train=TrainConfig(**{**TRAINING, **train}),
            compute=ComputeConfig(threads=1, device="cpu"),
        ),
        change,
        initialize,
        note,
    )


def stack_variants(stacks: Networks, **train: Any) -> list[Variant]:  # noqa: ANN401
    """Return a variant for each name -> stack, all trained in the same way."""
    return [make_variant(name, stack if isinstance(stack, str) else stack(), **train) for name, stack in stacks.items()]


def measure_nothing(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return no measurement."""
    return {}


def run_trials(
    variants: Sequence[Variant],
    setting: Setting,
    on_progress: OnProgress,
    *,
    measure: Measure = measure_nothing,
    measure_before: Measure = measure_nothing,
) -> Trials:
    """Train and measure every variant with every seed.

    Args:
        measure, measure_before: what to measure after and before training.

    Raises:
        KeyboardInterrupt: the user asked for a stop.
        ConvscopeError: a network could not be trained.
    """
    measures = measure_before, measure
    tasks = [(_with_seed(variant, seed, setting), measures) for variant in variants for seed in range(setting.seeds)]
    trials: dict[str, list[Trial]] = {variant.name: [] for variant in variants}
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            closing(_run_all(tasks, setting.jobs or jobs_at_once([None] * len(tasks)), scratch)) as finished,
        ):
            for done, ((variant, _), trial) in enumerate(zip(tasks, finished, strict=True), start=1):
                trials[variant.name].append(trial)
                on_progress(Progress(f"training {len(tasks)} networks", done, len(tasks), "networks"))
    except Interrupted:  # its run lies in the scratch folder and cannot go on
        raise KeyboardInterrupt from None
    return {name: tuple(of_seeds) for name, of_seeds in trials.items()}


def group_of(name: str, trials: Sequence[Trial], correct: NDArray[Any] | None = None) -> Group:
    """Return the trials of a variant in the form that comparisons take.

    Args:
        correct: which predictions are correct on other images than the test images, [seeds, N].
    """
    runs = [trial.run for trial in trials]
    if correct is not None:
        runs = [replace(run, correct=of_run) for run, of_run in zip(runs, correct.astype(bool), strict=True)]
    return Group(name, tuple(runs))


def measured(trials: Trials, name: str) -> dict[str, NDArray[np.float64]]:
    """Return one measurement of every variant, one row per seed: variant -> float64 [seeds, ...]."""
    return {
        variant: np.stack([np.asarray(trial.measured[name], np.float64) for trial in of_seeds])
        for variant, of_seeds in trials.items()
    }


def _with_seed(variant: Variant, seed: int, setting: Setting) -> Variant:
    config = replace(variant.config, train=replace(variant.config.train, seed=seed))
    if setting.quick:
        quick_data = replace(config.data, per_class=QUICK_PER_CLASS)
        config = replace(config, data=quick_data, train=replace(config.train, epochs=1))
    return replace(variant, config=config)


def _run_all(tasks: Sequence[tuple[Variant, tuple[Measure, Measure]]], jobs: int, scratch: str) -> Generator[Trial]:
    """Yield the trials in the order of the tasks; closing the generator early ends the worker processes."""
    if jobs == 1:
        yield from (_run(*task, scratch) for task in tasks)
        return
    others, workers = set(active_children()), set[BaseProcess]()
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), get_context("spawn"), initializer=_start_worker)
    try:
        with beyond_ctrl_c():
            futures = [pool.submit(_run, *task, scratch) for task in tasks]
        workers = set(active_children()) - others
        for future in futures:
            yield future.result()
    except BaseException as error:
        for worker in set(active_children()) - others:
            worker.kill()  # a network in training would answer a gentler signal only after its step
        if isinstance(error, BrokenProcessPool):
            codes = [worker.exitcode or 0 for worker in workers]  # the pool ends the others with SIGTERM
            code = next((code for code in codes if code not in (0, -signal.SIGTERM)), -signal.SIGTERM)
            raise TrainingError(
                f"a training process {describe_exit(code)}, perhaps for lack of memory; train one network at a time "
                'with --jobs 1. A script that calls convscope.lab needs `if __name__ == "__main__":`'
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)


def _run(variant: Variant, measures: tuple[Measure, Measure], scratch: str) -> Trial:
    config = variant.config
    images = load_digits(config.data)
    images = images if variant.change is None else variant.change(images)
    prepared = prepare(config, ignore_progress, images=images)
    variant.initialize(prepared.network)
    before = measures[0](prepared)
    split = prepared.evaluation_split
    indices = getattr(prepared.splits, split)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        trained, outputs = train_prepared(Path(folder), prepared, resume=False, on_progress=ignore_progress)
    labels, predicted = images.labels[indices], outputs(indices)[0].logits.argmax(axis=1)
    run = FinishedRun(
        folder="",
        config=config,
        results={
            "data": images.name,
            "split": split,
            "num_params": count_parameters(prepared.network),
            "macs": prepared.macs,
            "train_seconds": trained.train_seconds,
            "peak_memory_bytes": None,
        },
        images=tuple(images.ids[i] for i in indices),
        true=tuple(images.class_names[k] for k in labels),
        predicted=tuple(images.class_names[k] for k in predicted),
        correct=labels == predicted,
    )
    return Trial(variant, run, trained.history, {**before, **measures[1](prepared)})


@lru_cache(maxsize=2)
def load_digits(config: DataConfig) -> ImageSet:
    """Return the training images that a configuration names, and for testing many more than it does."""
    training = {id_ for id_, split in _ids_and_splits(load_images(config)) if split != "test"}
    wide = load_images(replace(config, per_class=config.per_class and WIDER * config.per_class))
    splits = tuple(split if id_ in training else "test" for id_, split in _ids_and_splits(wide))
    return replace(wide, source_splits=splits)


def _ids_and_splits(images: ImageSet) -> Iterator[tuple[str, str]]:
    return zip(images.ids, images.source_splits, strict=True)
