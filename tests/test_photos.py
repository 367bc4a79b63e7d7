"""Without a network's name, colour photos get the head of the embedded one, and everything else our own network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope.models.zoo.weights import EMBEDDED
from convscope.run.configure import choose_network, command_of, make_config
from tests.support import write_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos") / "photos", side=64)


def test_colour_photos_start_from_the_embedded_weights(photos: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar", photos)
    for source in (photos, Path(archive)):
        config, line = choose_network(make_config(source), {})
        assert (config.model.name, config.model.pretrained, config.frozen) == (EMBEDDED, True, True)
        assert config.data.image_size == 224
        assert f"the head of {EMBEDDED} is fitted; --no-pretrained" in line
        assert {f"--model {EMBEDDED}", "--pretrained"} <= set(re.findall(r"--\S+(?: [a-z]\S+)?", command_of(config)))


def test_it_takes_the_options_of_a_frozen_network(photos: Path) -> None:
    given = {"image_size": 96, "augment": ["flip"], "seed": 3, "epochs": 4, "unfreeze_at": 2}
    config, _ = choose_network(make_config(photos, **given), given)
    assert (config.model.name, config.data.image_size, config.train.seed) == (EMBEDDED, 96, 3)
    assert (config.train.augment, config.train.epochs, config.train.unfreeze_at) == (("flip",), 4, 2)


@pytest.mark.parametrize("given", [{"epochs": 3}, {"lr": 0.01}, {"normalize": False}])
def test_options_of_training_from_random_weights_ask_for_that(photos: Path, given: dict[str, object]) -> None:
    asked = make_config(photos, **given)
    config, line = choose_network(asked, given)
    assert config == asked
    assert f"--{next(iter(given))}" in line
    assert f"--model {EMBEDDED} --pretrained" in line


def test_other_images_and_other_wishes_get_what_they_got(photos: Path, tmp_path: Path) -> None:
    small = write_folder(tmp_path / "small", side=40)
    gray = tmp_path / "gray" / "a"
    gray.mkdir(parents=True)
    Image.fromarray(np.full((64, 64), 7, np.uint8)).convert("RGB").save(gray / "0.png")
    (gray / "1.png").write_bytes(b"no image")
    for source, given in (
        *((small, {}), (gray.parent, {}), ("digits", {}), (photos, {"gray": True})),
        *((photos, {"pretrained": False}), (photos, {"stack": "linear 3"})),
    ):
        asked = make_config(source, **given)
        assert choose_network(asked, given) == (asked, "")
