from __future__ import annotations

import json

import pytest

from convscope.config import DataConfig, ModelConfig, RunConfig, TrainConfig, config_from_json, config_to_json
from convscope.errors import UsageError
from convscope.models import published_preprocessing
from convscope.models.zoo import EMBEDDED
from convscope.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = RECIPES[name].config()
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


def test_recipes_give_embedded_weights_the_pictures_that_they_are_for() -> None:
    embedded = [recipe.config() for recipe in RECIPES.values() if recipe.config().model.name == EMBEDDED]
    assert len(embedded) >= 4
    frozen = [config for config in embedded if config.train.unfreeze_at is None]
    assert len(frozen) == len(embedded) - 2  # what learns gets used to other sizes: cifar-90, n13-unfrozen
    for config in embedded:
        published = published_preprocessing(config.model)
        assert published is not None
        for name in ("resize", "interpolation", *(("image_size", "crop_fraction") if config in frozen else ())):
            assert getattr(config.data, name) == getattr(published, name), name
