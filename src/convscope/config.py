"""The configuration of a run: frozen dataclasses that go to JSON and back unchanged.

Each field is an option. Its name, type, default and help text are written only here; the command line and the
documentation of the Python API are made from them. Values are checked when the object is created, before any data is
read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from convscope.errors import UsageError, unknown_name
from convscope.schema import checked, hints_of

Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["constant", "one-cycle"]
ClassWeights = Literal["none", "balanced"]
Augmentation = Literal["flip", "crop", "rotate", "zoom", "color", "erase", "mixup"]
Resize = Literal["crop", "squash"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
NearDuplicates = Literal["auto", "group", "keep"]
HeadKind = Literal["linear", "square-root", "flatten"]
NormalizeBy = Literal["data", "0.5"]
Precision = Literal["float32", "bfloat16", "auto"]

SPLIT_WITHOUT_TEST = (70.0, 15.0, 15.0)
"""Training, validation and test percentages of a source without its own test split."""
SPLIT_WITH_TEST = (90.0, 10.0, 0.0)
"""The same for a source with its own test split; they divide the rest."""
STACK = "stack"
"""The model name of a network written layer by layer."""
MAX_PIXELS = 100_000_000
"""Pixels of the largest image that is decoded: 300 MB as RGB."""
THREADS_BELOW = 1025
"""No processor has this many; libraries end the process where the system cannot make the threads."""
DEFAULT_MOMENTUM = 0.9
"""Momentum of SGD and Muon, and first beta of Adam and AdamW."""

FIRST, DATA, NETWORK, TRAINING = "Used most", "Data", "Network", "Training"
TRANSFER, COMPUTE, OUTPUT = "Transfer learning", "Memory and speed", "Output"
PANELS = (FIRST, DATA, NETWORK, TRAINING, TRANSFER, COMPUTE, OUTPUT)
"""The panels of options in the help of the command line, in order."""


def option(
    default: Any,  # noqa: ANN401
    help: str,
    panel: str | None,
    *,
    least: float | None = None,
    below: float | None = None,
) -> Any:  # noqa: ANN401
    """Return the dataclass field of an option.

    Args:
        panel: one of PANELS; None means the command line has no option of this name.
        least, below: the value is at least `least` and less than `below`.
    """
    return field(default=default, metadata={"help": help, "panel": panel, "least": least, "below": below})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and how they are resized and split.

    Args:
        source: a name such as `mnist5k`, or the path of a folder or archive of class folders, or of a CSV file.
    """

    source: str
    data_dir: str | None = option(None, "Folder with the files of a named data set.", DATA)
    image_size: int | None = option(None, "Side length of the images in pixels.", FIRST, least=1)
    resize: Resize = option("crop", "Non-square images: crop the center, or squash.", DATA)
    crop_fraction: float = option(1.0, "Central share of each side to keep, up to 1.", DATA)
    interpolation: Interpolation = option("bilinear", "Resizing filter: bilinear, bicubic or lanczos.", DATA)
    gray: bool = option(False, "Convert images to one gray channel.", DATA)
    per_class: int | None = option(
        None, "Use at most N images per class: of each split of the source, or in all if it has none.", DATA, least=1
    )
    split: tuple[float, float, float] | None = option(None, "Train/validation/test percentages, e.g. 70/15/15.", DATA)
    split_seed: int = option(0, "Seed of the random split.", DATA)
    near_duplicates: NearDuplicates = option(
        "auto", "Near duplicates: group in one split, keep apart, or auto (by the data).", DATA
    )
    drop_empty: bool = option(False, "Leave out classes without usable images.", DATA)
    allow_truncated: bool = option(False, "Accept truncated image files.", DATA)
    max_pixels: int = option(MAX_PIXELS, "Largest image to accept, in pixels.", DATA, least=1)

    def __post_init__(self) -> None:
        if isinstance(self.split, list | tuple) and len(self.split) != 3:
            raise _not_percentages(self.split)
        _check_values(self)
        if not 0 < self.crop_fraction <= 1:
            raise UsageError(f"crop_fraction {self.crop_fraction} is not in 0..1 (0 excluded); 1 keeps the whole image")
        split = self.split
        if split is not None and (min(split) < 0 or abs(sum(split) - 100) > 1e-6 or split[0] == 0):
            raise _not_percentages(split)


def _not_percentages(split: Sequence[float]) -> UsageError:
    return UsageError(
        f"split {'/'.join(f'{share}'.removesuffix('.0') for share in split)} is not three percentages "
        "(train/validation/test) that sum to 100 with something to train on; for example --split 70/15/15"
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Args:
        name: a key of MODELS; `auto` is the recommended network, `stack` the one written in `stack`.
    """

    name: str = "auto"
    stack: str | None = option(None, 'Network in one line, e.g. "conv 8 5x5; relu; linear 10".', NETWORK)
    pretrained: bool = option(False, "Start from published pretrained weights.", FIRST)
    weights: str | None = option(None, "Start from weights in a .safetensors or .pth file.", NETWORK)
    head: HeadKind = option("linear", "Head: linear, square-root (of features), or flatten (of feature maps).", NETWORK)

    def __post_init__(self) -> None:
        _check_values(self)
        if self.stack is not None and self.name != STACK:
            raise UsageError(f"model {self.name!r} and a stack are two networks; use --model or --stack, not both")
        if self.stack is None and self.name == STACK:
            raise UsageError('model "stack" needs its layers, for example --stack "conv 8 5x5; relu; linear 10"')


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained."""

    epochs: int = option(10, "Passes over the training split.", FIRST, least=1)
    batch_size: int = option(64, "Images per batch, or auto: what suits data and memory.", FIRST, least=1)
    auto_batch: bool = option(False, "Choose the batch size; `batch_size` is then the chosen one.", None)
    lr: float = option(1e-3, "Learning rate; the peak of a one-cycle schedule.", FIRST)
    optimizer: Optimizer = option("adam", "Optimizer: adam, adamw, sgd or muon.", TRAINING)
    momentum: float | None = option(
        None, "Momentum of SGD and Muon; first beta of Adam, AdamW (default: 0.9).", TRAINING, least=0, below=1
    )
    beta2: float = option(0.999, "Second beta of Adam, AdamW and Muon's Adam.", TRAINING, least=0, below=1)
    weight_decay: float = option(0.0, "Weight decay; decoupled for adamw and muon.", TRAINING, least=0)
    schedule: Schedule = option("one-cycle", "Learning rate schedule: one-cycle or constant.", TRAINING)
    accumulate: int = option(1, "Batches per optimizer step; gradients add up.", TRAINING, least=1)
    label_smoothing: float = option(0.0, "Share of the target spread over all classes.", TRAINING, least=0, below=1)
    augment: tuple[str, ...] = option((), "Comma list: flip, crop, rotate, zoom, color, erase, mixup.", FIRST)
    class_weights: ClassWeights = option("none", "none, or balanced: each class counts the same.", TRAINING)
    normalize: bool = option(True, "Normalize by the mean and std of the training split.", TRAINING)
    normalize_by: NormalizeBy = option("data", "Mean and std: of the data, or 0.5 (inputs in -1..1).", TRAINING)
    whiten: bool = option(False, "Compute the first layer from the images, not by training.", TRAINING)
    patience: int | None = option(None, "Stop after N epochs without a better validation result.", TRAINING, least=1)
    seed: int = option(0, "Seed of weights, image order, augmentation and dropout.", TRAINING, least=0)
    freeze: bool | None = option(None, "Train only the head (default: with --pretrained).", TRANSFER)
    unfreeze_at: int | None = option(None, "Epoch in which frozen stages start to learn.", TRANSFER, least=1)
    unfreeze: tuple[str, ...] = option((), "Stages that learn from --unfreeze-at on (default: all).", TRANSFER)
    unfreeze_lr: float = option(3e-4, "Learning rate from --unfreeze-at on.", TRANSFER)
    augmented_copies: int = option(4, "Augmented copies per image, with a frozen network.", TRANSFER, least=1)

    def __post_init__(self) -> None:
        _check_values(self)
        for name, rate in (("lr", self.lr), ("unfreeze_lr", self.unfreeze_lr)):
            if not 0 < rate < float("inf"):
                raise UsageError(f"{name} {rate} is not a positive number; for example {flag_of(name)} 0.001")
        if self.unfreeze_at is not None and not self.unfreeze_at <= self.epochs:
            raise UsageError(
                f"unfreeze_at {self.unfreeze_at} is after the last of {self.epochs} epochs; "
                "use more --epochs, or leave out --unfreeze-at to train only the head"
            )
        if self.unfreeze and self.unfreeze_at is None:
            raise UsageError("unfreeze names stages but there is no epoch; add one, for example --unfreeze-at 2")
        for name in self.augment:
            if name not in get_args(Augmentation):
                raise unknown_name("augmentation", name, get_args(Augmentation))

    @property
    def momentum_or_default(self) -> float:
        """The momentum to train with."""
        return DEFAULT_MOMENTUM if self.momentum is None else self.momentum


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a run is computed. Apart from rounding, nothing here changes what is learned."""

    device: str = option("auto", "Device: auto, cpu, cuda, cuda:N or mps.", COMPUTE)
    threads: int | None = option(
        None, "CPU threads (default: what suits the network).", COMPUTE, least=1, below=THREADS_BELOW
    )
    memory: int | None = option(None, "Memory limit that the run is fitted into, e.g. 4GiB.", COMPUTE, least=1)
    micro_batches: int = option(1, "Micro-batches that each batch is split into.", COMPUTE, least=1)
    evaluation_batch_size: int | None = option(
        None, "Images per batch in evaluation (default: what is fast).", COMPUTE, least=1
    )
    precision: Precision = option("float32", "Number format: float32, bfloat16, or auto (fastest).", COMPUTE)
    checkpoint_activations: bool = option(False, "Save memory: recompute activations in backward.", COMPUTE)
    checkpoint_seconds: float = option(60.0, "Most seconds between two checkpoints.", COMPUTE, least=0)
    checkpoint_steps: int | None = option(None, "Also save a checkpoint every N steps.", COMPUTE, least=1)

    def __post_init__(self) -> None:
        _check_values(self)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.train.whiten and (self.model.pretrained or self.model.weights is not None):
            raise UsageError(
                "whiten computes the first layer, but trained weights include one; use only one of the two"
            )
        if self.frozen and "mixup" in self.train.augment:
            raise UsageError(
                "mixup mixes the labels of two images, but the head of a frozen network is fitted to single labels; "
                "leave mixup out of --augment, or train all layers with --no-freeze"
            )

    @property
    def frozen(self) -> bool:
        """Whether the network is frozen at first and only its head is fitted."""
        return self.model.pretrained if self.train.freeze is None else self.train.freeze

    @property
    def only_head(self) -> bool:
        """Whether the run fits a head to its optimum and trains no epoch."""
        return self.frozen and self.train.unfreeze_at is None


# ---------------------------------------------------------------- options

CONFIGS: dict[str, type[Any]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "compute": ComputeConfig,
}
"""The configurations in a RunConfig, by name."""


@dataclass(frozen=True)
class Option:
    """An option of a run.

    Args:
        config: the key in CONFIGS of its dataclass.
        kinds: the types that its value may have, generic ones without their arguments.
        choices: the values of a Literal; () if any value is allowed.
        panel, least, below: see `option`.
    """

    name: str
    config: str
    hint: Any
    kinds: frozenset[type]
    choices: tuple[str, ...]
    default: Any
    help: str
    panel: str | None
    least: float | None
    below: float | None


def flag_of(name: str) -> str:
    """Return the name of an option on the command line."""
    return "--" + name.replace("_", "-")


def option_text(name: str, value: object) -> str:
    """Return the value of an option as the command line takes it."""
    if isinstance(value, tuple):
        return ("/" if name == "split" else ",").join(str(v).removesuffix(".0") for v in value)
    return str(value)


@cache
def options() -> Mapping[str, Option]:
    """Return the options of a run by name, in the order of the fields, without `source` and the model's `name`."""
    return {entry.name: entry for name, kind in CONFIGS.items() for entry in _options_of(name, kind)}


def _options_of(config: str, kind: type[Any]) -> Iterator[Option]:
    hints = get_type_hints(kind)
    for entry in fields(kind):
        if entry.metadata:
            hint = hints[entry.name]
            kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            literal = next((each for each in kinds if get_origin(each) is Literal), None)
            yield Option(
                name=entry.name,
                config=config,
                hint=hint,
                kinds=frozenset(str if each is literal else get_origin(each) or each for each in kinds),
                choices=get_args(literal),
                default=entry.default,
                **entry.metadata,
            )


def _check_values(config: object) -> None:
    """Raise a UsageError for a value of another type, out of range or not one of the choices.

    Numbers of numpy become Python's, which JSON can hold, and lists become tuples.
    """
    kind: Any = type(config)
    hints = hints_of(kind)
    for entry in fields(config):  # type: ignore[arg-type]
        known, value = options().get(entry.name), getattr(config, entry.name)
        try:
            value = checked(value, str if known and known.choices else hints[entry.name], entry.name)
        except ValueError as error:
            raise UsageError(str(error)) from None
        object.__setattr__(config, entry.name, value)
        if known is None or value is None:
            continue
        check_range(known.name, value, least=known.least, below=known.below)
        if known.choices and value not in known.choices:
            raise unknown_name(known.name.replace("_", " "), value, known.choices)


def check_range(name: str, value: float | None, *, least: float | None = None, below: float | None = None) -> None:
    """Raise a UsageError for a value of an option that is out of range; None, an option not given, is in range."""
    if value is None:
        return
    if least is not None and not value >= least:
        raise UsageError(f"{name} {value} is too small; {flag_of(name)} takes {least} or more")
    if below is not None and not value < below:
        raise UsageError(f"{name} {value} is too large; {flag_of(name)} takes less than {below}")


DEFAULT_COMPUTE = ComputeConfig()


# ---------------------------------------------------------------- JSON

_Config = TypeVar("_Config", DataConfig, ModelConfig, TrainConfig, ComputeConfig)


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts of JSON values."""
    return asdict(config)


def config_from_json(tree: Mapping[str, Any]) -> RunConfig:
    """Return the configuration written by `config_to_json`.

    Raises:
        UsageError: a value is not valid, or a key is unknown, which means that a newer version wrote it.
    """
    return RunConfig(**{name: part_from_json(kind, tree[name]) for name, kind in CONFIGS.items()})


def part_from_json(kind: type[_Config], tree: Mapping[str, Any]) -> _Config:
    """Return one of CONFIGS from the result of `dataclasses.asdict`; JSON turned its tuples into lists."""
    known = {entry.name for entry in fields(kind)}
    for key in tree:
        if key not in known:
            name = next(name for name, each in CONFIGS.items() if each is kind)
            raise unknown_name(f"{name} option", key, known)
    if kind is DataConfig and "source" not in tree:
        raise UsageError("the data have no 'source'")
    return kind(**tree)
