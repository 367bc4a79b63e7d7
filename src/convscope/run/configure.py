"""The configuration of a run, made from options by name, and the command line that gives it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_type_hints

from convscope.config import (
    CONFIGS,
    DEFAULT_MOMENTUM,
    STACK,
    Augmentation,
    ClassWeights,
    HeadKind,
    Interpolation,
    ModelConfig,
    NearDuplicates,
    NormalizeBy,
    Optimizer,
    Option,
    Precision,
    Resize,
    RunConfig,
    Schedule,
    flag_of,
    option_text,
    options,
)
from convscope.data.load import DATASETS
from convscope.data.photos import are_colour_photos
from convscope.errors import command, unknown_name
from convscope.models import find_model, published_preprocessing
from convscope.models.stack.notation import parse_stack
from convscope.models.zoo.weights import EMBEDDED
from convscope.sizes import parse_bytes

NAMED = ("epochs", "batch_size", "lr", "optimizer", "schedule", "seed", "split_seed")
"""Options that the command of a run always names, because a later version may change their defaults."""
FROM_SCRATCH = {
    *("epochs", "batch_size", "lr", "optimizer", "momentum", "beta2", "weight_decay", "schedule", "accumulate"),
    *("label_smoothing", "normalize", "normalize_by", "whiten", "patience"),
}
"""Options that say how all layers are trained; a frozen network has no use for them."""
AUTO = "auto"
"""The batch size that lets the planner choose one."""

Function = TypeVar("Function", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """The options of a run as keywords: the fields of the configuration, with None for options not given."""

    data_dir: str | Path | None
    image_size: int | None
    resize: Resize | None
    crop_fraction: float | None
    interpolation: Interpolation | None
    gray: bool | None
    per_class: int | None
    split: tuple[float, float, float] | None
    split_seed: int | None
    near_duplicates: NearDuplicates | None
    drop_empty: bool | None
    allow_truncated: bool | None
    max_pixels: int | None
    stack: str | None
    pretrained: bool | None
    weights: str | Path | None
    head: HeadKind | None
    epochs: int | None
    batch_size: int | Literal["auto"] | None
    lr: float | None
    optimizer: Optimizer | None
    momentum: float | None
    beta2: float | None
    weight_decay: float | None
    schedule: Schedule | None
    accumulate: int | None
    label_smoothing: float | None
    augment: Sequence[Augmentation] | None
    class_weights: ClassWeights | None
    normalize: bool | None
    normalize_by: NormalizeBy | None
    whiten: bool | None
    patience: int | None
    seed: int | None
    freeze: bool | None
    unfreeze_at: int | None
    unfreeze: Sequence[str] | None
    unfreeze_lr: float | None
    augmented_copies: int | None
    device: str | None
    threads: int | None
    memory: int | str | None
    micro_batches: int | None
    evaluation_batch_size: int | None
    precision: Precision | None
    checkpoint_activations: bool | None
    checkpoint_seconds: float | None
    checkpoint_steps: int | None


def takes_options(function: Function) -> Function:
    """Add every option of a run to the signature and the docstring of a function with `**options`."""
    hints = get_type_hints(Options)
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    keyword = inspect.Parameter.KEYWORD_ONLY
    given = [inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in hints.items()]
    function.__signature__ = inspect.Signature([*own, *given])  # type: ignore[attr-defined]
    lines = [f"    {name}: {options()[name].help}" for name in hints]
    function.__doc__ = "\n".join(
        [inspect.cleandoc(function.__doc__ or ""), "", "Options; None means not given:", *lines]
    )
    return function


@takes_options
def make_config(source: str | Path, model: str | None = None, **given: Unpack[Options]) -> RunConfig:
    """Return the configuration for a data set and a model: the model's defaults, overridden by the given options.

    Args:
        source: the name of a data set, or the path of a folder, archive or CSV file.
        model: a name from MODELS; None is `auto`, or `stack` if that option is given.

    Raises:
        UsageError: a name or value is not valid.
    """
    by_config: dict[str, dict[str, Any]] = {name: {} for name in CONFIGS}
    known = get_type_hints(Options)
    for name, value in given.items():
        if name not in known:
            raise unknown_name("option", name, known)
        if value is not None:
            by_config[options()[name].config][name] = _as_stored(name, value)
    data, network, training, compute = by_config.values()
    model_config = ModelConfig(name=(STACK if "stack" in network else "auto") if model is None else model, **network)
    if model_config.stack is not None:
        parse_stack(model_config.stack)  # reports a typo before any data is read
    spec = None if model_config.name == STACK else find_model(model_config.name)
    published = published_preprocessing(model_config)
    if spec is not None and (spec.sized_input or published is not None):
        data = {"image_size": spec.native_shape[1], "gray": spec.native_shape[0] == 1} | data
    if published is not None:
        data = {name: getattr(published, name) for name in ("resize", "crop_fraction", "interpolation")} | data
    if training.get("batch_size") == AUTO:
        del training["batch_size"]
        training["auto_batch"] = True
    if spec is not None:
        training = dict(spec.train) | training
    values_of = {"data": data | {"source": data_source(str(source))}, "train": training, "compute": compute}
    return RunConfig(model=model_config, **{name: CONFIGS[name](**values) for name, values in values_of.items()})


def choose_network(config: RunConfig, given: Mapping[str, Any]) -> tuple[RunConfig, str]:
    """Return the configuration to train where no network is named, and a line about it, "" where it stays as it is.

    On colour photos the head of the embedded network, trained on ImageNet, is fitted: it takes less time than training
    our own network and makes a fraction of its mistakes. Options of training from random weights ask for that.

    Args:
        given: the options of `make_config`.
    """
    asked = {name for name, value in given.items() if value is not None}
    if {"stack", "pretrained", "weights", "freeze"} & asked or not are_colour_photos(config.data):
        return config, ""
    scratch = sorted(asked & FROM_SCRATCH) if given.get("unfreeze_at") is None else []
    if scratch:
        better = f"--model {EMBEDDED} --pretrained"
        return config, f"colour photos, from random weights as {flag_of(scratch[0])} asks; better: {better}"
    chosen = make_config(config.data.source, EMBEDDED, **{**given, "pretrained": True})
    return chosen, f"colour photos: the head of {EMBEDDED} is fitted; --no-pretrained trains from random weights"


def command_of(config: RunConfig) -> str:
    """Return the command line that repeats a run: `make_config` of its options gives this configuration."""
    network = {each.name: getattr(config.model, each.name) for each in options().values() if each.config == "model"}
    name = None if config.model.stack is not None else config.model.name
    usual = make_config(config.data.source, name, **network)
    words = [] if name is None else ["--model", name]
    named = set(NAMED) - ({"epochs"} if config.only_head else set())  # a head is fitted: no epoch is trained
    for each in options().values():
        value = _value(config, each)
        default = each.default if each.name in network else _value(usual, each)
        if each.panel is None or value is None or (value == default and each.name not in named):
            continue
        if isinstance(value, bool):
            words.append(flag_of(each.name if value else f"no_{each.name}"))
        else:
            words += [flag_of(each.name), option_text(each.name, value)]
    return command("train", config.data.source, *words)


def _value(config: RunConfig, each: Option) -> Any:  # noqa: ANN401
    """Return the value of an option in a configuration; a momentum that is not given is the usual one."""
    value = getattr(getattr(config, each.config), each.name)
    return DEFAULT_MOMENTUM if each.name == "momentum" and value is None else value


def _as_stored(name: str, value: Any) -> Any:  # noqa: ANN401
    """Return the value of an option as the configuration stores it."""
    if name == "weights":
        return str(Path(value).resolve())
    if name == "memory" and isinstance(value, str):
        return parse_bytes(value)
    if isinstance(value, Path):
        return str(value)
    return tuple(value) if isinstance(value, list) else value


def data_source(data: str) -> str:
    """Return a data set's name unchanged and a path made absolute, so that a run can be resumed from anywhere."""
    return data if data in DATASETS or not Path(data).exists() else str(Path(data).resolve())
