"""What the files of a run folder say, one schema for each: a run folder may come from anybody.

Most keys may be absent, as older versions wrote fewer; whoever asks for one that is gets a RunError (`schema.Record`).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from convscope.errors import RunError
from convscope.schema import Range, checked

Count = Annotated[int, Range(0)]
Natural = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Amount = Annotated[float, Range(0)]
Channels = Annotated[int, Range(1, 3)]
Side = Annotated[int, Range(1, 10_000)]
"""Of a square image: its pixels are at most MAX_PIXELS."""
Std = Annotated[float, Range(above=0)]


class _Config(TypedDict, total=False):
    data: dict[str, Any]  # config.py checks what is in these
    model: dict[str, Any]
    train: dict[str, Any]
    compute: dict[str, Any]


class _Preprocessing(TypedDict):
    image_size: tuple[Side, Side]
    channels: Channels
    mean: list[float]
    std: list[Std]


class _Network(TypedDict, total=False):
    name: str
    num_params: Count
    macs: Count | None
    input_shape: tuple[Channels, Side, Side]


class _Data(TypedDict, total=False):
    name: str
    fingerprint: str
    num_images: Count
    num_skipped: Count
    num_ignored: Count
    notes: list[str]
    class_counts: dict[str, list[Count]]
    mean: list[float]
    std: list[Amount]
    samples: list[str]


class _Hardware(TypedDict, total=False):
    device: str
    name: str | None
    cpu_cores: Count | None
    threads: Count | None
    memory_bytes: Count | None
    platform: str


class Start(TypedDict, total=False):
    """run.json."""

    convscope: str
    created: str
    config: _Config
    class_names: list[str]
    model: _Network
    preprocessing: _Preprocessing
    data: _Data
    split_sha256: str
    versions: dict[str, str]
    hardware: _Hardware


class _Accuracy(TypedDict):
    value: Share
    low: Share
    high: Share
    correct: Count
    n: Natural


class _ClassMetrics(TypedDict):
    name: str
    n: Count
    precision: Share | None
    recall: Share | None
    f1: Share | None


class Results(TypedDict, total=False):
    """results.json; None is unknown or not measured."""

    run: str
    model: str
    data: str
    seed: Count | None
    split: str
    num_params: Count | None
    macs: Count | None
    epochs: Count | None
    best_epoch: Count | None
    train_seconds: Amount | None
    peak_memory_bytes: Count | None
    fraction_of_peak_flops: Amount | None
    split_sha256: str | None
    leaked_images: Count | None
    accuracy_without_leaked: _Accuracy | None
    notes: list[str] | None
    accuracy: _Accuracy | None
    loss: Amount | None
    topk_accuracy: dict[str, Share] | None
    per_class: list[_ClassMetrics] | None
    confusion: list[list[Count]] | None


class _Architecture(TypedDict):
    name: str
    stack: NotRequired[str | None]
    head: NotRequired[str]
    input_shape: tuple[Channels, Side, Side]
    num_classes: Natural


class Model(TypedDict):
    """model.json."""

    architecture: _Architecture
    class_names: list[str]
    preprocessing: _Preprocessing


class _Stage(TypedDict):
    stage: str
    predicted_bytes: Count | None
    measured_bytes: Count | None


class _Peak(TypedDict):
    predicted_bytes: Count | None
    measured_bytes: Count | None


class _Seconds(TypedDict):
    predicted: Amount | None
    measured: Amount | None


class Plan(TypedDict, total=False):
    """plan.json."""

    limit_bytes: Count | None
    why: str
    batch_size: Natural
    micro_batches: Natural
    checkpoint_activations: bool
    evaluation_batch_size: Natural | None
    model_file: bool
    keeps_freed_memory: bool
    stages: list[_Stage]
    peak: _Peak
    seconds: _Seconds


class _Rule(TypedDict):
    score: str
    threshold: float
    kept: Share
    n: Count
    test_kept: Share | None
    test_n: Count


class Certificate(TypedDict, total=False):
    """certificate.json."""

    images: Count
    from_files: bool
    largest_difference: Amount | None
    changed: list[str]
    failed: str | None
    agrees: bool
    unknown: _Rule | None


def _check_start(start: Mapping[str, Any]) -> None:
    names, data = start.get("class_names"), start.get("data", {})
    if names is not None:
        check_names(names)
        for split, counts in data.get("class_counts", {}).items():
            _check_length(f"data.class_counts.{split}", counts, len(names), "classes")
    if "created" in start:
        datetime.fromisoformat(start["created"]).astimezone()
    shape = start.get("model", {}).get("input_shape")
    if shape is not None:
        for name in ("mean", "std"):
            _check_length(f"data.{name}", data.get(name), shape[0], "channels")
        _check_preprocessing(start.get("preprocessing", {}), shape[0])


def _check_model(model: Mapping[str, Any]) -> None:
    check_names(model["class_names"])
    architecture = model["architecture"]
    _check_length("class_names", model["class_names"], architecture["num_classes"], "classes")
    _check_preprocessing(model["preprocessing"], architecture["input_shape"][0])


def _check_results(results: Mapping[str, Any]) -> None:
    matrix = results.get("confusion") or []
    for number, row in enumerate(matrix):
        _check_length(f"confusion[{number}]", row, len(matrix), "classes")


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for names of classes that a classifier cannot have."""
    if len(names) < 2:
        raise ValueError(f"class_names has {len(names)} names; a classifier needs two")
    if len(set(names)) < len(names):
        raise ValueError("class_names has a name twice")


def _check_preprocessing(preprocessing: Mapping[str, Any], channels: int) -> None:
    for name in ("mean", "std"):
        _check_length(f"preprocessing.{name}", preprocessing.get(name), channels, "channels")


def _check_length(name: str, values: Sequence[Any] | None, expected: int, what: str) -> None:
    if values is not None and len(values) != expected:
        raise ValueError(f"{name} has {len(values)} values for {expected} {what}")


SCHEMAS: dict[str, tuple[Any, Callable[[Any], None]]] = {
    "run.json": (Start, _check_start),
    "results.json": (Results, _check_results),
    "model.json": (Model, _check_model),
    "plan.json": (Plan, lambda _: None),
    "certificate.json": (Certificate, lambda _: None),
}
"""File -> its type, and a function that raises ValueError where its values do not fit one another."""


def check_record(path: Path, tree: object) -> Any:  # noqa: ANN401
    """Return the content of a JSON file as its schema says; a file without a schema as it is.

    Raises:
        RunError: names the file, the value and what was expected.
    """
    if path.name not in SCHEMAS:
        return tree
    kind, fits = SCHEMAS[path.name]
    try:
        record = checked(tree, kind, f"{path}:")
    except ValueError as error:
        raise damaged(str(error)) from None
    try:
        fits(record)
    except (ValueError, OverflowError) as error:
        raise damaged(f"{path}: {error}") from None
    return record


def damaged(problem: str) -> RunError:
    """Return the error for a file of a run that says what it cannot say."""
    return RunError(f"{problem}; the file is damaged or was changed: restore it, or train again into a new folder")


_PREDICTIONS = {"image": str, "true": str, "predicted": str, "p_true": float, "p_pred": float, "loss": float}
COLUMNS: dict[str, dict[str, type]] = {
    "split.csv": {"image": str, "label": str, "split": str},
    "skipped.csv": {"file": str, "reason": str, "remedy": str},
    "predictions.csv": _PREDICTIONS,
    "mistakes.csv": _PREDICTIONS,
}
"""File -> the columns that it has at least, and whether they are text or numbers."""
