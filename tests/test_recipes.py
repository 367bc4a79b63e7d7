"""Recipes as written: the write-ups' own normalization, resize, images and layers."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import convscope
from convscope.config import ModelConfig, config_from_json, config_to_json
from convscope.errors import UsageError
from convscope.models import build_model, build_shapes, count_parameters, published_preprocessing
from convscope.models.saved import load_model
from convscope.seeds import derive_seed
from convscope.storage.files import read_json
from convscope.storage.run_folder import read_history
from convscope.writeups.recipes import RECIPES
from tests.support import write_folder

AS_IS, MINUS_ONE_TO_ONE, STATISTICS = "pixel / 255", "-1..1", "mean and std"
WRITTEN = {
    "n1": (AS_IS, 60_000, 0),
    "n1-normalized": (STATISTICS, 60_000, 0),
    "n2": (AS_IS, 60_000, 0),
    "n2-normalized": (STATISTICS, 60_000, 0),
    "n3": (MINUS_ONE_TO_ONE, 60_000, 0),
    "n4": (AS_IS, 54_000, 6_000),
    "n5": (MINUS_ONE_TO_ONE, 60_000, 0),
    "n6": (AS_IS, 50_000, 0),
    "n7": (AS_IS, 3_240, 360),
    "n8": (AS_IS, 45_000, 5_000),
    "n9": (AS_IS, 45_000, 5_000),
    "n10": (AS_IS, 45_000, 5_000),
    "n11": (AS_IS, 3_240, 360),
    "n11-unfrozen": (AS_IS, 3_240, 360),
    "n11-500px": (AS_IS, 405, 45),
    "n11-500px-unfrozen": (AS_IS, 405, 45),
    "n12": (MINUS_ONE_TO_ONE, 2_845, 610),
    "n13": (AS_IS, 2_845, 610),
}
"""Normalization, training and validation images of the recipes that repeat a write-up."""


def test_recipes_as_written_have_the_normalization_and_the_images_of_the_write_ups() -> None:
    found = {}
    for name, recipe in RECIPES.items():
        if recipe.as_written:
            train, published = recipe.config.train, published_preprocessing(recipe.config.model)
            half = train.normalize_by == "0.5" or (published is not None and published.mean == (0.5,) * 3)
            kind = AS_IS if not train.normalize else MINUS_ONE_TO_ONE if half else STATISTICS
            found[name] = (kind, recipe.train_images, recipe.validation_images)
    assert found == WRITTEN


def test_photos_of_the_third_write_up_are_squashed() -> None:
    squashed = {name for name, recipe in RECIPES.items() if recipe.config.data.resize == "squash"}
    assert squashed == {"n7", "n11", "n11-unfrozen", "n11-500px", "n11-500px-unfrozen"}
    sizes = {name: RECIPES[name].config.data.image_size for name in squashed}
    assert sizes == {name: 500 if "500px" in name else 200 for name in squashed}


def test_pixels_are_brought_to_minus_one_to_one_where_that_is_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    convscope.recipe("n3", data="mnist5k", epochs=1, per_class=12, out=run, report=False)
    facts = read_json(run / "run.json")
    assert (facts["preprocessing"]["mean"], facts["preprocessing"]["std"]) == ([0.5], [0.5])
    assert {split: sum(counts) for split, counts in facts["data"]["class_counts"].items()} == {
        "train": 120,
        "validation": 0,
        "test": 120,
    }
    saved = load_model(run)
    assert (saved.mean, saved.std) == ((0.5,), (0.5,))


def test_configurations_without_a_normalization_mean_that_of_the_data() -> None:
    tree = config_to_json(RECIPES["n3-ours"].config)
    del tree["train"]["normalize_by"]
    assert config_from_json(tree) == RECIPES["n3-ours"].config
    with pytest.raises(UsageError, match=r"unknown normalize by '0\.4'.*0\.5, data"):
        convscope.make_config("mnist", normalize_by="0.4")  # type: ignore[arg-type]


def test_n6_is_the_alexnet_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = models.alexnet(num_classes=10)
    ours = build_shapes(RECIPES["n6"].config.model, (3, 224, 224), 10)
    assert str(ours) == str(theirs)
    assert count_parameters(ours) == count_parameters(theirs) == 57_044_810


# ---------------------------------------------------------------- N11


@pytest.mark.parametrize(("side", "maps"), [(200, 512 * 6 * 6), (500, 512 * 15 * 15)])
def test_vgg16_has_one_dense_layer_on_all_its_feature_maps(side: int, maps: int) -> None:
    network = build_shapes(RECIPES["n11"].config.model, (3, side, side), 2)
    dense = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in dense] == [(maps, 2)]
    assert count_parameters(network) == 14_714_688 + 2 * maps + 2  # what Keras prints of VGG16 without its top


def test_a_flattened_head_multiplies_the_last_feature_maps() -> None:
    network = build_model(ModelConfig(name="alexnet", head="flatten"), (3, 64, 64), 3).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.features(x).flatten(1) @ network.classifier[0].weight.T + network.classifier[0].bias
        assert torch.allclose(network(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "cnn", "convnext_tiny"])
def test_a_network_without_several_dense_layers_keeps_its_head(name: str) -> None:
    with pytest.raises(UsageError, match=r"alexnet and vgg16 do; leave out --head flatten"):
        build_shapes(ModelConfig(name=name, head="flatten"), (3, 64, 64), 3)


@pytest.mark.parametrize("recipe", ["n11", "n11-unfrozen"])
def test_a_base_is_frozen_from_the_start_or_not(recipe: str, tmp_path: Path) -> None:
    """The recipe itself, on a smaller network of the same form and from random weights."""
    shown = {"model": "alexnet", "pretrained": False, "image_size": 64, "per_class": 8, "epochs": 2, "lr": 1e-3}
    config = RECIPES[recipe].config
    options = {key: value for key, value in {**vars(config.data), **vars(config.train)}.items() if key not in shown}
    del options["source"], options["auto_batch"]
    options |= {"head": config.model.head, "freeze": config.frozen}
    data, run = write_folder(tmp_path / "photos", side=20), tmp_path / "run"
    convscope.train(data, **options, **shown, out=run, report=False)
    assert [record.epoch for record in read_history(run)] == [1, 2]
    torch.manual_seed(derive_seed(0, "weights"))
    start = build_model(ModelConfig(name="alexnet", head="flatten"), (3, 64, 64), 3).state_dict()
    moved = {
        name for name, value in load_model(run).network.state_dict().items() if not torch.equal(value, start[name])
    }
    assert {name.partition(".")[0] for name in moved} == {"classifier"} | (
        {"features"} if "unfrozen" in recipe else set()
    )


# ---------------------------------------------------------------- CIFAR-10 as an archive of images


def test_a_recipe_takes_cifar10_as_an_archive_with_its_own_test_split(tmp_path: Path, reference: Path) -> None:
    """A few images of the archive, in its folders."""
    small, kept = tmp_path / "cifar10.zip", Counter[str]()
    with zipfile.ZipFile(reference / "cifar10.zip") as archive, zipfile.ZipFile(small, "w") as chosen:
        for name in archive.namelist():
            folder = str(Path(name).parent)
            if kept[folder] < 10:
                kept[folder] += 1
                chosen.writestr(name, archive.read(name))
    result = convscope.recipe("cifar-75", data=str(small), epochs=1, out=tmp_path / "run", report=False)
    counts = read_json(tmp_path / "run" / "run.json")["data"]["class_counts"]
    assert counts == {"train": [9] * 10, "validation": [1] * 10, "test": [10] * 10}
    assert result.notes[-2:] == ("shortened: 1 of 2 epochs", "shortened: 90 of 45,000 training images")
