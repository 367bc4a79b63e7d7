"""The verbs of the command line as functions. They wire the stages together.

import convscope
result = convscope.train("mnist5k", model="lenet5", epochs=5)
print(result.accuracy.value, result.run)
"""

from __future__ import annotations

from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.budget.costs import count_macs
from convscope.config import STACK, DataConfig, ModelConfig, RunConfig, TrainConfig
from convscope.data import DATASETS, load_images
from convscope.data.batches import Preprocessing
from convscope.data.image_set import ImageSet
from convscope.data.splits import Splits
from convscope.device import choose_device, configure_threads
from convscope.errors import DataError, ResumeMismatch, UsageError, WeightsError, unknown_name
from convscope.evaluation.metrics import compute_metrics
from convscope.exporting.model_file import export_run
from convscope.forecast import budget as budget
from convscope.insight import inspect as inspect
from convscope.models import MODELS, build_model, count_parameters, find_model, published_preprocessing
from convscope.models.pretrained import weights_status
from convscope.models.saved import SavedModel, load_model
from convscope.models.spec import ModelSpec
from convscope.models.stack import parse_stack
from convscope.models.zoo import count_zoo_parameters, zoo_names
from convscope.planning import fit_into_memory
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.recipes import RECIPES
from convscope.report.page import build_report
from convscope.results import RunResult
from convscope.runs import (
    check_out,
    create_run_folder,
    locked,
    read_config,
    read_json,
)
from convscope.sizes import parse_bytes
from convscope.training.plan_record import write_plan
from convscope.workflow import (
    check_same,
    finish,
    leak_figures,
    load_run_data,
    predict,
    prepare,
    write_evaluation,
    write_start,
)

AUTO = "auto"
"""A batch size that is to be chosen."""
EXPORT_FORMATS = ("onnx",)
MODELS_LISTED = 40
"""So many networks of torchvision and timm are listed at a time."""


def make_config(source: str, model: str | None = None, **options: Any) -> RunConfig:  # noqa: ANN401
    """Return the configuration for a data set and a model: the model's own defaults, then the options given.

    Args:
        model: a name from MODELS; None is `auto`, or the stack that is given.
        options: fields of DataConfig, ModelConfig and TrainConfig by name, for example epochs=5, image_size=64,
            batch_size="auto", memory="4GiB"; None is not given.

    Raises:
        UsageError: a name or value cannot be meant.
    """
    given = {name: value for name, value in options.items() if value is not None}
    names = {
        kind: {f.name for f in fields(kind)} - {"source", "name"} for kind in (DataConfig, ModelConfig, TrainConfig)
    }
    known = set().union(*names.values())
    for name in given:
        if name not in known:
            raise unknown_name("option", name, known)
    data, network, training = ({k: v for k, v in given.items() if k in names[kind]} for kind in names)
    if "weights" in network:
        network["weights"] = str(Path(network["weights"]).resolve())
    model_config = ModelConfig(name=model or (STACK if "stack" in given else "auto"), **network)
    if model_config.stack is not None:
        parse_stack(model_config.stack)  # a typo is told before any data are read
    spec = None if model_config.name == STACK else find_model(model_config.name)
    published = published_preprocessing(model_config)
    if spec is not None and (spec.sized_input or published is not None):
        data = {"image_size": spec.native_shape[1], "gray": spec.native_shape[0] == 1} | data
    if published is not None:
        data = {name: getattr(published, name) for name in ("resize", "crop_fraction", "interpolation")} | data
    source = _source(source)
    if training.get("batch_size") == AUTO:
        training = {k: v for k, v in training.items() if k != "batch_size"} | {"auto_batch": True}
    if isinstance(training.get("memory"), str):
        training["memory"] = parse_bytes(training["memory"])
    if spec is not None:
        training = dict(spec.train) | training
    return RunConfig(
        data=DataConfig(source=source, **data),
        model=model_config,
        train=TrainConfig(**training),
    )


def _source(data: str) -> str:
    """Return a data set's name as it is and a path in full, so that a run can be resumed from anywhere."""
    return data if data in DATASETS or not Path(data).exists() else str(Path(data).resolve())


def train(
    data: str,
    *,
    model: str | None = None,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
    **options: Any,  # noqa: ANN401
) -> RunResult:
    """Train, evaluate and report on one network; see `make_config` for the options.

    Raises:
        ConvscopeError: see errors.py; nothing half-written stays behind when the data or options are refused.
    """
    return run_config(make_config(data, model, **options), out=out, report=report, on_progress=on_progress)


def recipe(
    name: str,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    per_class: int | None = None,
    split_seed: int = 0,
    weights: str | None = None,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Run a named recipe.

    Args:
        data: other pictures than the recipe's own; needed where it has none.
        epochs, per_class: shorten it; see DataConfig and TrainConfig.
        weights: a file of trained weights, where those the recipe starts from are not to be downloaded.

    Raises:
        UsageError: the name is unknown, the recipe needs data that are not named, or it starts from no weights.
        WeightsError: its trained weights are not on this machine and cannot be fetched.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    config = RECIPES[name].config()
    if not (data or config.data.source):
        raise UsageError(f"recipe {name} needs {RECIPES[name].pictures.name}; name it with --data PATH")
    if weights is not None and not config.model.pretrained:
        raise UsageError(f"recipe {name} starts from random weights; leave --weights out")
    source = config.data.source if data is None else _source(data)
    config = replace(
        config,
        data=replace(config.data, source=source, data_dir=data_dir, per_class=per_class, split_seed=split_seed),
        model=replace(config.model, weights=None if weights is None else str(Path(weights).resolve())),
        train=replace(config.train, seed=seed, epochs=config.train.epochs if epochs is None else epochs),
    )
    try:
        return run_config(config, out=out, report=report, on_progress=on_progress)
    except WeightsError as error:
        offline = f"{name.partition('-')[0]}-ours"
        if weights is not None or offline == name:
            raise
        raise WeightsError(f"{error}; the recipe that stands for it without: convscope recipe {offline}") from error


def run_config(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Start the run that a configuration describes and see it to its end."""
    if out is not None:
        check_out(Path(out))
    prepared, plan = fit_into_memory(prepare(config, on_progress))
    if plan.chosen:
        on_progress(Progress(f"memory: {plan.why}", 0, None))
    run = create_run_folder(out, default_name=f"{prepared.images.name}-{config.model.name}")
    with locked(run):
        write_plan(run, plan)
        write_start(run, prepared)
        return finish(run, prepared, report=report, resume=False, on_progress=on_progress)


def resume(
    run: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Continue a run from its newest whole checkpoint; the result is bit-identical to a run without interruption.

    Args:
        data, model: what the caller believes the run to be; checked when given.

    Raises:
        ResumeMismatch: the data set, its classes or the model are not those the run was started with.
    """
    run = Path(run)
    config = read_config(run)
    if model is not None and model != config.model.name:
        raise ResumeMismatch(f"{run} trains model {config.model.name!r}, not {model!r}; start a new run for it")
    if data is not None and make_config(data).data.source != config.data.source:
        raise ResumeMismatch(f"{run} trains on {config.data.source!r}, not {data!r}; start a new run for it")
    with locked(run):
        prepared = prepare(config, on_progress)
        check_same(run, prepared)
        return finish(run, prepared, report=report, resume=True, on_progress=on_progress)


def evaluate(
    run: str | Path, data: str | None = None, *, device: str = "auto", on_progress: OnProgress = ignore_progress
) -> RunResult:
    """Measure a finished run's network on the test part of its data, or on another data set.

    With `data` None results.json, predictions.csv and mistakes.csv are written anew; for other data they go to
    RUN/evaluations/NAME. Other data are used whole unless they have a test part of their own, and must have the
    same classes.
    """
    run = Path(run)
    saved, config = load_model(run), read_config(run)
    old = read_json(run / "results.json")
    images, indices, part, folder, splits = _evaluation_data(run, config, saved, data, on_progress)
    chosen = choose_device(device)
    configure_threads(config.train.threads)
    preprocessing = Preprocessing(saved.mean, saved.std)
    predictions = predict(saved.network.to(chosen), images, indices, preprocessing, chosen)
    known = {} if data is not None else {key: old[key] for key in _FIELDS_OF_TRAINING if key in old}
    if splits is not None:
        known |= leak_figures(images, splits, part, predictions)
    result = RunResult(
        run=str(run),
        model=saved.name,
        data=images.name,
        seed=config.train.seed,
        part=part,
        metrics=compute_metrics(predictions),
        num_params=old["num_params"],
        **known,
    )
    with locked(run):
        folder.mkdir(parents=True, exist_ok=True)
        write_evaluation(folder, predictions, result)
    return result


def list_models(pattern: str | None = None, *, limit: int = MODELS_LISTED) -> tuple[list[dict[str, Any]], int]:
    """Return the networks whose names match a shell pattern, one dict each, and how many more there are.

    Without a pattern they are our own; with one, those of torchvision and timm as well, which takes seconds to import.
    Operations are counted for our own only.

    Args:
        limit: at most so many of torchvision and timm.
    """
    rows = []
    for name, spec in MODELS.items():
        if fnmatchcase(name, pattern or "*"):
            network = build_model(ModelConfig(name=name), spec.native_shape, spec.native_classes)
            rows.append(_model_row(name, spec, count_parameters(network), count_macs(network, spec.native_shape), None))
    names = [] if pattern is None else zoo_names(pattern)
    for name in names[:limit]:
        rows.append(_model_row(name, find_model(name), count_zoo_parameters(name), None, weights_status(name)))
    return rows, max(0, len(names) - limit)


def _model_row(
    name: str, spec: ModelSpec, num_params: int | None, macs: int | None, weights: str | None
) -> dict[str, Any]:
    shape = "x".join(map(str, spec.native_shape))
    values = (name, shape, num_params, macs, weights, spec.description)
    return dict(zip(("model", "input", "num_params", "macs", "weights", "description"), values, strict=True))


def export(run: str | Path, *, to: str = "onnx", out: str | Path | None = None) -> Path:
    """Write a finished run as one file that predicts without torch, RUN/model.onnx unless `out` says otherwise.

    Raises:
        UsageError: the format is unknown.
        RunError: the run is not finished.
        ExportError: the network has no such form.
    """
    if to not in EXPORT_FORMATS:
        raise unknown_name("format", to, EXPORT_FORMATS)
    run = Path(run)
    with locked(run):
        return export_run(run, None if out is None else Path(out))


def write_report(run: str | Path) -> Path:
    """Write RUN/report.html anew from what the run recorded; return its path."""
    run = Path(run)
    with locked(run):
        return build_report(run)


_FIELDS_OF_TRAINING = (
    "macs",
    "epochs",
    "best_epoch",
    "train_seconds",
    "peak_memory_bytes",
    "fraction_of_peak_flops",
    "split_sha256",
    "notes",
)


def _evaluation_data(
    run: Path, config: RunConfig, saved: SavedModel, data: str | None, on_progress: OnProgress
) -> tuple[ImageSet, NDArray[np.int64], str, Path, Splits | None]:
    """Return pictures, which of them to use, the name of that part, the folder for the results, the run's own split."""
    if data is None:
        images, splits = load_run_data(run, config, on_progress)
        part = "test" if len(splits.test) else "validation"
        return images, getattr(splits, part), part, run, splits
    channels, height, _ = saved.input_shape
    images = load_images(
        make_config(
            data,
            image_size=height,
            gray=channels == 1,
            data_dir=config.data.data_dir,
            resize=config.data.resize,
            crop_fraction=config.data.crop_fraction,
            interpolation=config.data.interpolation,
        ).data,
        on_progress,
    )
    if images.shape != saved.input_shape:
        raise DataError(f"{images.name} has pictures of {images.shape}, the network takes {saved.input_shape}")
    if images.class_names != saved.class_names:
        raise DataError(
            f"{images.name} has the classes {', '.join(images.class_names)}; the network knows "
            f"{', '.join(saved.class_names)}. Evaluation needs the same classes under the same names"
        )
    own_test = np.flatnonzero(np.array(images.parts) == "test")
    indices = own_test if len(own_test) else np.arange(len(images))
    folder = run / "evaluations" / images.name.replace("/", "-")
    return images, indices, "test" if len(own_test) else "all", folder, None
