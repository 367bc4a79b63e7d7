"""What a recipe needs and how long it takes, before it begins: against hand counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import convscope
from convscope import device
from convscope.errors import WeightsError
from convscope.models.zoo.pretrained import weights_status
from convscope.run import prepare
from convscope.storage.files import read_json
from convscope.writeups import needs
from convscope.writeups.needs import FACTOR, TRAINING_PASSES, USUAL_SHARE, RecipeNeeds, recipe_needs
from convscope.writeups.recipes import RECIPES
from tests.support import run_convscope

PEAK = 1e9


@pytest.fixture(scope="module")
def of_recipes() -> dict[str, RecipeNeeds]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(needs, "measure_peak_flops", lambda device: PEAK)
        return {entry.recipe: entry for entry in recipe_needs()}


def test_time_is_operations_over_the_usual_rate(of_recipes: dict[str, RecipeNeeds]) -> None:
    macs = 784 * 128 + 128 * 10
    for name, train, validation in (("n1", 60_000, 0), ("n1-ours", 54_000, 6_000)):
        likely = 10 * (TRAINING_PASSES * train + validation) * 2 * macs / (USUAL_SHARE * PEAK)
        assert of_recipes[name].seconds == pytest.approx((likely / FACTOR, likely * FACTOR))


def test_a_frozen_network_sees_each_image_once(of_recipes: dict[str, RecipeNeeds]) -> None:
    def likely(name: str) -> float:
        assert of_recipes[name].seconds is not None
        return of_recipes[name].seconds[1] / FACTOR

    maps = {  # a convolution of VGG16 and the side of its feature maps, of images of 200 px
        200: [(3, 64), (64, 64)],
        100: [(64, 128), (128, 128)],
        50: [(128, 256), (256, 256), (256, 256)],
        25: [(256, 512), (512, 512), (512, 512)],
        12: [(512, 512), (512, 512), (512, 512)],
    }
    base = sum(ins * outs * 9 * side**2 for side, layers in maps.items() for ins, outs in layers)
    dense = 512 * 6 * 6 * 2
    epoch = TRAINING_PASSES * 3_240 + 360
    assert likely("n11-unfrozen") == pytest.approx(10 * epoch * 2 * (base + dense) / (USUAL_SHARE * PEAK))
    frozen = (3_240 + 360) * (base + dense) + 10 * epoch * dense
    assert likely("n11") == pytest.approx(2 * frozen / (USUAL_SHARE * PEAK))


def test_epochs_of_the_last_blocks_count_what_lies_behind_the_cut(of_recipes: dict[str, RecipeNeeds]) -> None:
    recipe = RECIPES["n13-unfrozen"]
    config = recipe.config
    size = config.data.image_size
    predicted = convscope.budget("efficientnet_lite0", input_shape=(3, size, size), num_classes=recipe.images.classes)
    early = ("conv_stem", *(f"blocks.{number}." for number in range(5)))
    before = sum(layer.macs for layer in predicted.layers if layer.name.startswith(early))
    assert 0.4 < before / predicted.macs < 0.8
    copies = config.train.augmented_copies * recipe.train_images + recipe.validation_images
    learning = 4 * (TRAINING_PASSES * recipe.train_images + recipe.validation_images)
    likely = 2 * (copies * predicted.macs + learning * (predicted.macs - before)) / (USUAL_SHARE * PEAK)
    assert of_recipes["n13-unfrozen"].seconds == pytest.approx((likely / FACTOR, likely * FACTOR))


def test_memory_is_that_of_the_budget(of_recipes: dict[str, RecipeNeeds]) -> None:
    predicted = convscope.budget("cats-cnn", batch_size=64, num_classes=2)
    assert of_recipes["n7"].memory_bytes == predicted.memory.training_peak_bytes


def test_every_recipe_says_what_it_needs(of_recipes: dict[str, RecipeNeeds]) -> None:
    assert list(of_recipes) == list(RECIPES)
    assert all(entry.data and entry.memory_bytes for entry in of_recipes.values())
    pretrained = {name for name, recipe in RECIPES.items() if recipe.config.model.pretrained}
    assert {name for name, entry in of_recipes.items() if entry.weights is not None} == pretrained
    assert of_recipes["n13-ours"].weights == "here"


def test_a_recipe_can_be_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shorter = ("--epochs", "1", "--per-class", "3", "--no-report")
    code, out, _ = run_convscope(capsys, "recipe", "demo", *shorter, "--out", tmp_path / "run")
    assert code == 0
    assert "shortened: 1 of 16 epochs" in out
    assert "shortened: 20 of 3,600 training images" in out
    facts = read_json(tmp_path / "run" / "run.json")
    assert facts["config"]["train"]["epochs"] == 1
    assert sum(facts["data"]["class_counts"]["test"]) == 30


def test_a_recipe_without_its_weights_names_the_one_that_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise WeightsError("no connection")

    monkeypatch.setattr(prepare, "fetch_weights", refuse)
    code, _, err = run_convscope(capsys, "recipe", "n11", "--data", "digits", "--out", tmp_path / "run")
    assert code == 1
    assert "convscope recipe n11-ours" in " ".join(err.split())
    assert of_weights("n11-ours") == of_weights("n12-ours") == "here"
    code, _, err = run_convscope(capsys, "recipe", "n1", "--weights", "some.safetensors")
    assert code == 2
    assert "random weights" in err


def of_weights(name: str) -> str:
    return weights_status(RECIPES[name].config.model.name)


def test_the_peak_is_that_of_the_faster_library(monkeypatch: pytest.MonkeyPatch) -> None:
    product, convolution = 2 * 1024**3, 2 * 8 * 28**2 * 128 * 128 * 9
    cpu = torch.device("cpu")
    for seconds, expected in (((1.0, 1e3), product), ((1e3, 1.0), convolution)):
        device._peak_flops.cache_clear()
        times = iter(seconds)
        monkeypatch.setattr(device, "shortest_seconds", lambda work, _, times=times: work() is None or next(times))
        assert device.measure_peak_flops(cpu) == expected
        assert device.measure_peak_flops(cpu) == expected, "measured once in a process"
    device._peak_flops.cache_clear()
