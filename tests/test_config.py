from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from typer.main import get_command

import convscope
from convscope.cli import build_app
from convscope.config import (
    FIRST,
    PANELS,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    config_from_json,
    config_to_json,
    flag_of,
    options,
)
from convscope.errors import UsageError
from convscope.inference.session import threads_for
from convscope.models import published_preprocessing
from convscope.models.zoo.weights import EMBEDDED
from convscope.run.configure import Options, make_config
from convscope.writeups.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = RECIPES[name].config
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


def test_tuples_survive_json() -> None:
    config = RunConfig(
        data=DataConfig(source="x", split=(70, 15, 15)),
        model=ModelConfig(name="mlp"),
        train=TrainConfig(augment=("flip", "crop")),
    )
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs 0.*--epochs takes 1 or more"),
        ({"batch_size": -1}, "--batch-size takes 1"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"optimizer": "adma"}, "unknown optimizer 'adma'.*Did you mean 'adam'"),
        ({"schedule": "cosine"}, "Known: constant, one-cycle"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
        ({"momentum": 1.5}, "momentum 1.5"),
        ({"augment": ("flop",)}, "unknown augmentation 'flop'.*Did you mean 'flip'"),
    ],
)
def test_training_options_out_of_range_are_refused_in_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(**options)  # type: ignore[arg-type]


def test_trained_weights_are_not_whitened_away() -> None:
    with pytest.raises(UsageError, match="trained weights"):
        RunConfig(data=DataConfig(source="x"), model=ModelConfig(pretrained=True), train=TrainConfig(whiten=True))


@pytest.mark.parametrize("split", [(50, 20, 20), (0, 50, 50), (120, -10, -10), (50, 50)])
def test_splits_that_cannot_be_are_refused(split: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="not three percentages"):
        DataConfig(source="x", split=split)  # type: ignore[arg-type]


def test_a_config_of_a_newer_version_names_the_option() -> None:
    tree = config_to_json(RunConfig(data=DataConfig(source="x")))
    tree["train"]["sharpness"] = 3
    with pytest.raises(UsageError, match="unknown train option 'sharpness'"):
        config_from_json(tree)


def test_recipes_give_embedded_weights_the_images_that_they_are_for() -> None:
    embedded = [recipe.config for recipe in RECIPES.values() if recipe.config.model.name == EMBEDDED]
    assert len(embedded) >= 4
    frozen = [config for config in embedded if config.train.unfreeze_at is None]
    assert len(frozen) == len(embedded) - 2  # what learns gets used to other sizes: cifar-90, n13-unfrozen
    for config in embedded:
        published = published_preprocessing(config.model)
        assert published is not None
        for name in ("resize", "interpolation", *(("image_size", "crop_fraction") if config in frozen else ())):
            assert getattr(config.data, name) == getattr(published, name), name


def test_every_option_is_a_keyword_of_the_api_with_the_same_type() -> None:
    """Named twice, once as a field and once as a keyword, and this says that both agree."""
    keywords = get_type_hints(Options)
    fields = {name: each for name, each in options().items() if each.panel is not None}
    assert list(keywords) == list(fields)
    for name, hint in keywords.items():
        taken = {get_origin(kind) or kind for kind in get_args(hint)} - {NoneType}
        stored = {*fields[name].kinds} - {NoneType}
        literal = get_args(fields[name].hint) if fields[name].choices else ()
        assert stored <= {str if kind is Literal else tuple if kind is Sequence else kind for kind in taken}, name
        assert not literal or set(literal) <= {value for kind in get_args(hint) for value in get_args(kind)}, name


@pytest.mark.parametrize("verb", [convscope.train, convscope.compare, convscope.make_config])
def test_every_option_is_in_the_signature_and_the_help_of_the_verbs(verb: Callable[..., object]) -> None:
    parameters = inspect.signature(verb).parameters
    assert verb.__doc__ is not None
    for name, each in options().items():
        if each.panel is not None:
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert f"{name}: {each.help}" in verb.__doc__
            assert "\n" not in each.help


def test_the_command_line_offers_every_option_in_its_panel() -> None:
    """From the parser itself; the eight that most people need come first."""
    train = get_command(build_app("train")).commands["train"]  # type: ignore[attr-defined]
    offered = {parameter.name: parameter for parameter in train.params}
    for name, each in options().items():
        if each.panel is not None:
            assert flag_of(name) in offered[name].opts
            assert offered[name].rich_help_panel == each.panel
    first = [name for name, parameter in offered.items() if parameter.rich_help_panel == FIRST]
    assert len(first) == 8
    panels = [parameter.rich_help_panel for parameter in train.params if parameter.rich_help_panel in PANELS]
    assert list(dict.fromkeys(panels)) == list(PANELS)


def test_what_the_command_line_is_given_becomes_the_configuration() -> None:
    given = "--gray --no-normalize --split 60/20/20 --augment flip,crop --memory 2GiB --lr 0.5 --no-freeze"
    words = ["train", "digits", *given.split()]
    seen: dict[str, Any] = {}
    command = get_command(build_app("train")).commands["train"]  # type: ignore[attr-defined]
    with command.make_context("train", words[1:]) as context:
        seen |= {name: value for name, value in context.params.items() if value is not None}
    assert (seen["gray"], seen["normalize"], seen["freeze"], seen["lr"]) == (True, False, False, 0.5)
    config = convscope.make_config(
        "digits", gray=True, normalize=False, split=(60, 20, 20), augment=["flip", "crop"], memory="2GiB", lr=0.5
    )
    assert (config.data.gray, config.data.split, config.train.augment) == (True, (60, 20, 20), ("flip", "crop"))
    assert (config.train.normalize, config.compute.memory) == (False, 2 * 2**30)


def test_numbers_of_numpy_become_numbers_of_python() -> None:
    config = convscope.make_config(
        "digits", epochs=np.int64(1), lr=np.float32(0.5), gray=np.bool_(True), split=[np.float64(70), 15, np.int8(15)]
    )
    assert json.loads(json.dumps(config_to_json(config)))["train"]["epochs"] == 1
    assert [type(value) for value in (config.train.epochs, config.train.lr, config.data.gray)] == [int, float, bool]
    assert config.data.split == (70.0, 15.0, 15.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": "3"}, "epochs '3' is not a whole number"),
        ({"epochs": 1.5}, "epochs 1.5 is not a whole number"),
        ({"lr": True}, "lr True is not a finite number"),
        ({"gray": 1}, "gray 1 is not true or false"),
        ({"augment": "flip"}, "augment 'flip' is not a list"),
        ({"split": "70/15/15"}, "split '70/15/15' is not a list"),
        ({"optimizer": 3}, "optimizer 3 is not text"),
        ({"checkpoint_seconds": float("inf")}, "checkpoint_seconds inf is not a finite number"),
        ({"seed": 2**70}, "seed 1180591620717411303424 is not a number of 64 bits"),
        ({"threads": 10**6}, "threads 1000000 is too large; --threads takes less than 1025"),
        ({"epochs": np.array([1, 2])}, "epochs array.* is not a whole number"),
    ],
)
def test_values_of_another_type_are_refused_before_anything_is_written(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        convscope.train("digits", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda: convscope.lab("padding", seeds=0),
        lambda: convscope.lab("padding", jobs=0),
        lambda: convscope.compare("digits", models=["mlp", "cnn"], seeds=0),
        lambda: convscope.predict("run", "a.jpg", threads=-1),
        lambda: convscope.predict("run", "a.jpg", threads=0),
        lambda: convscope.predict("run", "a.jpg", threads=1_000_000),
        lambda: convscope.list_models(limit=-1),
        lambda: convscope.budget("mlp", num_classes=0),
        lambda: convscope.budget("mlp", images=0),
        lambda: make_config("digits", threads=1_000_000),
        lambda: make_config("digits", split=(float("nan"), 15.0, 15.0)),
    ],
)
def test_a_number_out_of_range_is_neither_the_default_nor_a_traceback(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=r"--[a-z-]+ takes|nan is not a finite number"):
        call()


@pytest.mark.parametrize(("images", "threads", "expected"), [(1, 3, (3, 1)), (None, 3, (1, 3)), (1, 1, (1, 1))])
def test_one_image_gets_the_threads_that_are_asked_for(
    images: int | None, threads: int, expected: tuple[int, int]
) -> None:
    assert threads_for(images, threads) == expected
