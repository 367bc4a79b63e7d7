"""The configuration of a run: frozen dataclasses that go to JSON and back unchanged.

Every field has the name of its command-line option. Ranges are checked when the object is made, so a value that
cannot work is refused before any data is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from convscope.errors import UsageError, unknown_name

Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["constant", "one-cycle"]
ClassWeights = Literal["none", "balanced"]
Augmentation = Literal["flip", "crop", "rotate", "zoom", "color", "erase", "mixup"]
Resize = Literal["crop", "squash"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
HeadKind = Literal["linear", "square-root"]

SPLIT_WITHOUT_TEST_PART = (70.0, 15.0, 15.0)
"""Train, validation and test percentages of a source that has no test part of its own."""
SPLIT_WITH_TEST_PART = (90.0, 10.0, 0.0)
"""Percentages for the rest of a source that has one."""
STACK = "stack"
"""The model name of a network that is written out layer by layer."""
MAX_PIXELS = 100_000_000
"""Largest picture that is decoded, in pixels: 300 MB as RGB."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures come from and how they are cut to size and split.

    Args:
        source: a name (`mnist5k`, `cifar10`, ...) or the path of a folder or archive of class folders, or of a CSV.
        data_dir: folder that holds the files of a named source; None looks in the cache, then downloads.
        image_size: side in pixels; None keeps the source's own size.
        resize: how a picture that is not square becomes so: crop cuts out the centre, squash changes its proportions.
        crop_fraction: share of either side that is kept, the rest is cut away evenly all round; 1 keeps everything.
        interpolation: filter that resizes, antialiased.
        gray: one channel, even from colour pictures.
        per_class: at most this many pictures of each class in each part.
        split: percentages for train, validation, test; None takes the defaults above.
        split_seed: seed of the split; apart from the training seed, so that seeds can be compared on one split.
        drop_empty: leave out classes without a usable picture instead of stopping.
        allow_truncated: accept pictures whose file is cut short (missing pixels are gray in JPEGs, black in others).
        max_pixels: refuse to decode pictures with more pixels than this.
    """

    source: str
    data_dir: str | None = None
    image_size: int | None = None
    resize: Resize = "crop"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    gray: bool = False
    per_class: int | None = None
    split: tuple[float, float, float] | None = None
    split_seed: int = 0
    drop_empty: bool = False
    allow_truncated: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        _at_least("image_size", self.image_size, 1)
        _at_least("per_class", self.per_class, 1)
        _at_least("max_pixels", self.max_pixels, 1)
        if not 0 < self.crop_fraction <= 1:
            raise UsageError(
                f"crop_fraction {self.crop_fraction} is not in 0..1 (0 excluded); 1 keeps the whole picture"
            )
        for name, value, known in (
            ("resize rule", self.resize, get_args(Resize)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        if self.split is not None and (
            len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 100) > 1e-6 or self.split[0] == 0
        ):
            shown = "/".join(f"{share:g}" for share in self.split)
            raise UsageError(
                f"split {shown} is not three percentages (train/validation/test) that sum to 100 "
                "with something to train on; for example --split 70/15/15"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network.

    Args:
        name: a key of MODELS; `auto` is the one we recommend, `stack` one that is written out in `stack`.
        stack: layers in the one-line notation, for example "conv 8 5x5; relu; max-pool 2; linear 10".
        pretrained: start from trained weights instead of random ones.
        weights: a safetensors file to take the trained weights from; None takes those known by the network's name.
        head: `square-root` has the last layer multiply the signed square roots of its inputs.
    """

    name: str = "auto"
    stack: str | None = None
    pretrained: bool = False
    weights: str | None = None
    head: HeadKind = "linear"

    def __post_init__(self) -> None:
        if self.head not in get_args(HeadKind):
            raise unknown_name("head", self.head, get_args(HeadKind))
        if self.stack is not None and self.name != STACK:
            raise UsageError(f"model {self.name!r} and a stack are two networks; give --model or --stack, not both")
        if self.stack is None and self.name == STACK:
            raise UsageError('model "stack" needs its layers, for example --stack "conv 8 5x5; relu; linear 10"')


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained.

    Args:
        epochs: passes over the training part.
        batch_size: pictures per step on the device; the weights change every `batch_size * accumulate` pictures.
        lr: learning rate; the peak of the one-cycle schedule.
        momentum: of SGD and Muon, and the first beta of Adam and AdamW (None: 0.9).
        beta2: the second beta of Adam and AdamW, and for what Muon leaves to Adam.
        weight_decay: coupled for SGD and Adam, decoupled for AdamW and for the weights that Muon moves.
        auto_batch: batch_size is to be chosen: the largest power of two that makes sense and fits; once a run has begun
            batch_size is what was chosen.
        parts: each batch goes through the network in so many parts; the gradient is that of the whole batch.
        evaluation_batch: at most so many pictures at a time where nothing is learned; None: as many as are fast.
        memory: the most bytes that the process may take, or torch may take of a GPU; None for no limit. What has to be
            changed for it that leaves the result as it is, is.
        accumulate: gradient steps that are added up before the weights change.
        label_smoothing: share of the target spread evenly over all classes, 0..1.
        augment: names of augmentations, applied in this order to training batches; mixup comes last.
        class_weights: `balanced` lets all classes count the same in the loss, however many pictures each has.
        freeze: keep the network but for its head as it is, with what it makes of the pictures computed once; None does
            so for pretrained networks.
        unfreeze_at: epoch from which frozen stages learn as well; None never. A head fitted to its optimum stands for
            the epochs before.
        unfreeze: the stages that learn from then on, by name or beginning of a name; () is all of them.
        unfreeze_lr: learning rate from then on.
        views: random versions of each picture that a frozen network is shown, where augmentation is asked for.
        whiten: compute the first layer from the training pictures instead of training it, so that its maps are
            uncorrelated.
        normalize: subtract the mean and divide by the deviation of the training part, per channel.
        patience: stop after this many epochs without a better one on validation data; None never stops early.
        seed: of weights, order, augmentation and dropout.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: CPU threads; None is torch's choice, and one for networks too small to gain from more.
        mixed_precision: bfloat16 or float16 arithmetic where the device has it.
        checkpoint_activations: keep few of the maps for the backward pass and compute the others again; nothing else
            changes.
        checkpoint_seconds: longest time between two checkpoints within an epoch.
        checkpoint_steps: save every so many steps as well; None saves by time and at each epoch's end.
    """

    epochs: int = 10
    batch_size: int = 64
    auto_batch: bool = False
    parts: int = 1
    evaluation_batch: int | None = None
    memory: int | None = None
    lr: float = 1e-3
    optimizer: Optimizer = "adam"
    momentum: float | None = None
    beta2: float = 0.999
    weight_decay: float = 0.0
    schedule: Schedule = "one-cycle"
    accumulate: int = 1
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()
    class_weights: ClassWeights = "none"
    freeze: bool | None = None
    unfreeze_at: int | None = None
    unfreeze: tuple[str, ...] = ()
    unfreeze_lr: float = 3e-4
    views: int = 4
    whiten: bool = False
    normalize: bool = True
    patience: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    mixed_precision: bool = False
    checkpoint_activations: bool = False
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "parts",
            "evaluation_batch",
            "memory",
            "accumulate",
            "patience",
            "threads",
            "checkpoint_steps",
            "unfreeze_at",
            "views",
        ):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        _at_least("weight_decay", self.weight_decay, 0)
        _at_least("checkpoint_seconds", self.checkpoint_seconds, 0)
        for name, rate in (("lr", self.lr), ("unfreeze_lr", self.unfreeze_lr)):
            if not 0 < rate < float("inf"):
                option = name.replace("_", "-")
                raise UsageError(f"{name} {rate} is not a positive number; for example --{option} 0.001")
        if self.unfreeze_at is not None and not self.unfreeze_at <= self.epochs:
            raise UsageError(
                f"unfreeze_at {self.unfreeze_at} comes after the last of {self.epochs} epochs; "
                "give more --epochs, or leave out --unfreeze-at to train the head alone"
            )
        if self.unfreeze and self.unfreeze_at is None:
            raise UsageError("unfreeze names stages and no epoch; for example --unfreeze-at 2")
        if self.class_weights not in get_args(ClassWeights):
            raise unknown_name("class weights", self.class_weights, get_args(ClassWeights))
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing {self.label_smoothing} is not in 0..1; 0 turns it off")
        for name, value in (("momentum", self.momentum), ("beta2", self.beta2)):
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name} {value} is not in 0..1 (1 excluded)")
        if self.optimizer not in get_args(Optimizer):
            raise unknown_name("optimizer", self.optimizer, get_args(Optimizer))
        for name in self.augment:
            if name not in get_args(Augmentation):
                raise unknown_name("augmentation", name, get_args(Augmentation))
        if self.schedule not in get_args(Schedule):
            raise unknown_name("schedule", self.schedule, get_args(Schedule))


_Part = TypeVar("_Part", DataConfig, ModelConfig, TrainConfig)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.train.whiten and (self.model.pretrained or self.model.weights is not None):
            raise UsageError("whiten computes the first layer anew, and trained weights come with theirs; choose one")
        if self.frozen and "mixup" in self.train.augment:
            raise UsageError(
                "mixup mixes the labels of two pictures, and the head of a frozen network is fitted to single ones; "
                "leave mixup out of --augment, or train all layers with --no-freeze"
            )

    @property
    def frozen(self) -> bool:
        """Whether the network is frozen at first, so that only its head is fitted."""
        return self.model.pretrained if self.train.freeze is None else self.train.freeze


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts of JSON values."""
    return asdict(config)


def config_from_json(tree: Mapping[str, Any]) -> RunConfig:
    """Return the configuration written by `config_to_json`.

    Raises:
        UsageError: a key is unknown, which means that a newer version wrote it.
    """
    return RunConfig(
        data=_part_from_json(DataConfig, "data", tree["data"]),
        model=model_config_from_json(tree["model"]),
        train=train_config_from_json(tree["train"]),
    )


def model_config_from_json(tree: Mapping[str, Any]) -> ModelConfig:
    """Return the part of a configuration that `dataclasses.asdict` made of it."""
    return _part_from_json(ModelConfig, "model", tree)


def train_config_from_json(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the part of a configuration that `dataclasses.asdict` made of it."""
    return _part_from_json(TrainConfig, "train", tree)


def _part_from_json(kind: type[_Part], name: str, tree: Mapping[str, Any]) -> _Part:
    """Return a part of a configuration; JSON knows no tuples, only lists."""
    known = {entry.name for entry in fields(kind)}
    for key in tree:
        if key not in known:
            raise unknown_name(f"{name} option", key, known)
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
    return kind(**values)


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and not value >= least:
        option = name.replace("_", "-")
        raise UsageError(f"{name} {value} is too small; --{option} takes {least} or more")
