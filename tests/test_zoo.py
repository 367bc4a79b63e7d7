"""Networks of torchvision and timm by name."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import models as torchvision_models

import convscope
from convscope.config import ModelConfig
from convscope.errors import UsageError
from convscope.models import MODELS, build_model, count_parameters, find_model
from convscope.models.meta import shapes_only
from convscope.models.saved import SavedModel, load_model, save_model
from convscope.models.surgery.first_layer import change_channels, set_input_channels
from convscope.models.surgery.head import split_backbone
from convscope.models.zoo.catalog import count_zoo_parameters, find_network, zoo_names
from convscope.models.zoo.weights import EMBEDDED
from convscope.torch_internals import allocation_sizes

FAMILIES = {
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mnasnet0_5": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    EMBEDDED: 64,
    "ghostnet_050": 64,
    "legacy_seresnet18": 64,
    "legacy_xception": 64,
    "mobilenetv2_050": 64,
    "resnetv2_18": 64,
    "convnext_atto": 64,
    "timm/resnet18": 64,
    "vit_tiny_patch16_224": 64,
}
"""One network of each family with the side of a small image that it takes."""


@cache
def built(name: str, channels: int = 3) -> nn.Module:
    """Return a network with 5 classes; tests leave it as it is."""
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name), (channels, FAMILIES[name], FAMILIES[name]), 5)


def images(name: str, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, channels, FAMILIES[name], FAMILIES[name], generator=generator)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "library", "architecture", "tag"),
    [
        ("resnet50", "torchvision", "resnet50", "imagenet1k_v2"),
        ("resnet50.imagenet1k_v1", "torchvision", "resnet50", "imagenet1k_v1"),
        ("torchvision/resnet50", "torchvision", "resnet50", "imagenet1k_v2"),
        ("timm/resnet50", "timm", "resnet50", "a1_in1k"),
        ("timm/resnet50.tv_in1k", "timm", "resnet50", "tv_in1k"),
        ("resnet50.tv_in1k", "timm", "resnet50", "tv_in1k"),
        ("inception_v3", "torchvision", "inception_v3", "imagenet1k_v1"),
        ("mobilenetv2_100", "timm", "mobilenetv2_100", "ra_in1k"),
        ("legacy_seresnet18", "timm", "legacy_seresnet18", "in1k"),
        ("legacy_xception", "timm", "legacy_xception", "tf_in1k"),
        (EMBEDDED, "timm", "tf_efficientnet_lite0", ""),
        (f"timm/{EMBEDDED}", "timm", EMBEDDED, "ra_in1k"),
    ],
)
def test_a_name_is_torchvisions_where_both_know_it(name: str, library: str, architecture: str, tag: str) -> None:
    network = find_network(name)
    assert network is not None
    assert (network.library, network.architecture, network.tag) == (library, architecture, tag)


@pytest.mark.parametrize(
    "name", ["resnet19", "resnet50.nonsense", "torchvision/mobilenetv2_100", "other/resnet50", "timm/", ""]
)
def test_what_no_library_has_is_not_found(name: str) -> None:
    assert find_network(name) is None


def test_every_name_of_the_table_of_the_mission_is_known() -> None:
    for name in ("vgg16", "alexnet", "inception_v3", "mobilenetv2_100", "googlenet", "resnet18", "resnet50"):
        spec = find_model(name)
        assert spec.native_shape[1] in (224, 299)
        assert spec.preprocessing is not None
    assert len(zoo_names()) > 1000
    assert zoo_names("timm/resnet18") == ["timm/resnet18"]
    assert not set(zoo_names()) & set(MODELS)


def test_an_unknown_name_tells_near_ones_of_the_libraries_too() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'mobilnetv2_100'.*Did you mean 'mobilenetv2_100'.*auto"):
        find_model("mobilnetv2_100")
    with pytest.raises(UsageError, match=r"Did you mean 'resnet50.a1_in1k'"):
        find_model("resnet50.a1_in1")


def test_our_own_names_need_neither_library() -> None:
    code = (
        "import sys; from convscope.models import find_model; find_model('cnn'); find_model('efficientnet_lite0'); "
        "sys.exit(any(name.split('.')[0] in ('timm', 'torchvision') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- parameters

PUBLISHED_PARAMETERS = {
    "legacy_xception": 22_855_952,  # Keras Applications
    "mobilenetv2_100": 3_504_872,  # torchvision's mobilenet_v2
    "timm/vgg16": 138_357_544,  # torchvision's
    EMBEDDED: 4_652_008,  # TensorFlow TPU repository: 4.7 million
}


@pytest.mark.parametrize(
    "name", [*PUBLISHED_PARAMETERS, "alexnet", "densenet121", "resnet50", "regnet_y_400mf", "swin_t"]
)
def test_parameters_are_the_published_ones(name: str) -> None:
    expected = PUBLISHED_PARAMETERS.get(name)
    if expected is None:
        expected = torchvision_models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert count_zoo_parameters(name) == expected


def test_inception_counts_without_its_auxiliary_head() -> None:
    whole = torchvision_models.Inception_V3_Weights.DEFAULT.meta["num_params"]
    with shapes_only():
        auxiliary = torchvision_models.inception.InceptionAux(768, 1000)
    assert count_zoo_parameters("inception_v3") == whole - count_parameters(auxiliary)


@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5", "ghostnet_050", "vit_tiny_patch16_224"])
def test_counting_by_shapes_equals_counting_what_is_built(name: str) -> None:
    network = find_network(name)
    assert network is not None
    build = {"torchvision": torchvision_models.get_model, "timm": timm.create_model}[network.library]
    assert count_zoo_parameters(name) == count_parameters(build(name))


def test_a_listing_says_what_is_where() -> None:
    rows, further = convscope.list_models("*lite0")
    weights = {row["model"]: row["weights"] for row in rows}
    assert weights.keys() == {EMBEDDED, "tf_efficientnet_lite0"}
    assert weights[EMBEDDED] == "here"
    assert weights["tf_efficientnet_lite0"] in ("here", "to download")  # by what this user has fetched
    assert {row["num_params"] for row in rows} == {PUBLISHED_PARAMETERS[EMBEDDED]}
    assert further == 0
    rows, further = convscope.list_models("timm/resnet*", limit=2)
    assert [row["model"] for row in rows] == zoo_names("timm/resnet*")[:2]
    assert further == len(zoo_names("timm/resnet*")) - 2
    rows, _ = convscope.list_models()
    assert [row["model"] for row in rows] == list(MODELS)


def test_our_networks_are_listed_without_making_their_weights() -> None:
    assert max(allocation_sizes(lambda: convscope.list_models()), default=0) < 1_000_000


# ---------------------------------------------------------------- as trained


@pytest.mark.parametrize("name", FAMILIES)
def test_training_takes_plain_logits_and_reaches_every_parameter(name: str) -> None:
    network = copy.deepcopy(built(name)).train()
    logits = network(images(name))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 5)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "mobilenetv2_050", "resnet18", "vit_tiny_patch16_224"])
def test_a_gray_image_gives_what_three_equal_channels_give(name: str) -> None:
    color = built(name)
    torch.manual_seed(0)
    gray = build_model(ModelConfig(name=name), (1, FAMILIES[name], FAMILIES[name]), 5)
    assert sum(p.numel() for p in gray.parameters()) < sum(p.numel() for p in color.parameters())
    x = images(name, channels=1)
    with torch.no_grad():
        expected = color.eval()(x.expand(-1, 3, -1, -1))
        assert torch.allclose(gray.eval()(x), expected, atol=1e-4 * float(expected.abs().max().clamp(min=1)))


def test_a_first_layer_for_gray_images_takes_colour_again() -> None:
    gray = torch.randn(4, 1, 3, 3)
    x = torch.rand(1, 1, 8, 8)
    color = change_channels(gray, 3)
    assert torch.allclose(F.conv2d(x.expand(-1, 3, -1, -1), color), F.conv2d(x, gray), atol=1e-6)
    assert torch.allclose(change_channels(color, 1), gray)


def test_a_network_whose_first_layer_is_no_convolution_over_colours_is_refused() -> None:
    with pytest.raises(UsageError, match=r"tresnet_m.*takes RGB images only"):
        build_model(ModelConfig(name="tresnet_m"), (1, 64, 64), 5)
    with pytest.raises(UsageError, match="RGB images only"):
        set_input_channels(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 1)


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("inception_v3", 64, r"inception_v3.*3x64x64.*--image-size 299"),
        ("vit_b_16", 60, r"vit_b_16.*3x60x60.*--image-size 224"),
        ("maxvit_t", 64, r"maxvit_t.*3x64x64.*--image-size 224"),
        ("resnet18", 8, None),
        ("resnet18", 101, None),
        ("vit_tiny_patch16_224", 48, None),
        (EMBEDDED, 33, None),
    ],
)
def test_other_sizes_work_or_are_refused_in_words(name: str, side: int, words: str | None) -> None:
    if words is not None:
        with pytest.raises(UsageError, match=words):
            build_model(ModelConfig(name=name), (3, side, side), 4)
        return
    network = build_model(ModelConfig(name=name), (3, side, side), 4).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, side, side)).shape == (1, 4)


@pytest.mark.parametrize("name", ["mnasnet0_5", "mobilenetv2_050", "vit_tiny_patch16_224"])
def test_a_network_survives_saving(name: str, tmp_path: Path) -> None:
    network, x = built(name).eval(), images(name)
    shape = (3, FAMILIES[name], FAMILIES[name])
    save_model(tmp_path, SavedModel(network, name, shape, tuple("abcde"), (0.5,) * 3, (0.25,) * 3))
    with torch.no_grad():
        assert torch.allclose(load_model(tmp_path).network(x), network(x), atol=1e-4)


# ---------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b1", "efficientnet_v2_s"])
def test_preprocessing_is_torchvisions_own(name: str) -> None:
    """An image through ours, resized by Pillow from the crop that is named, against their transforms."""
    preprocessing = find_model(name).preprocessing
    assert preprocessing is not None
    image = smooth_image(400, 300)
    expected = torchvision_models.get_model_weights(name).DEFAULT.transforms()(image)
    side, kept = preprocessing.image_size, 150 * preprocessing.crop_fraction
    box = (200 - kept, 150 - kept, 200 + kept, 150 + kept)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    pixels = np.asarray(image.resize((side, side), filters[preprocessing.interpolation], box=box), np.float32) / 255
    ours = (pixels - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    assert expected.shape == (3, side, side)
    assert float((torch.from_numpy(ours).permute(2, 0, 1) - expected).abs().mean()) < 0.02


@pytest.mark.parametrize("name", ["timm/resnet50", "mobilenetv2_100", "legacy_xception"])
def test_preprocessing_is_timms_own(name: str) -> None:
    preprocessing = find_model(name).preprocessing
    assert preprocessing is not None
    expected = timm.data.resolve_data_config({}, model=timm.create_model(name.removeprefix("timm/")))
    assert expected["input_size"] == (3, preprocessing.image_size, preprocessing.image_size)
    assert (expected["mean"], expected["std"]) == (preprocessing.mean, preprocessing.std)
    assert (expected["crop_pct"], expected["interpolation"]) == (
        preprocessing.crop_fraction,
        preprocessing.interpolation,
    )


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_scaling_the_input_belongs_to_the_preprocessing(name: str, side: int) -> None:
    """torchvision normalizes for ImageNet and lets the network undo it; here it is done once, to -1..1."""
    theirs = torchvision_models.get_model(
        name, num_classes=5, aux_logits=False, init_weights=False, transform_input=True
    )
    ours = built(name)
    theirs.load_state_dict(ours.state_dict())
    weights = torchvision_models.get_model_weights(name).DEFAULT.transforms()
    x = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (weights.mean, weights.std))
    preprocessing = find_model(name).preprocessing
    assert preprocessing is not None
    our_mean, our_std = preprocessing.mean[0], preprocessing.std[0]
    with torch.no_grad():
        expected = theirs.eval()((x - mean) / std)
        assert torch.allclose(ours.eval()((x - our_mean) / our_std), expected, atol=1e-4, rtol=1e-4)


def test_statistics_of_gray_images_are_the_average() -> None:
    preprocessing = find_model("resnet18").preprocessing
    assert preprocessing is not None
    assert preprocessing.statistics(3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    (mean,), (std,) = preprocessing.statistics(1)
    assert (mean, std) == (pytest.approx(0.449), pytest.approx(0.226))


def smooth_image(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


# ---------------------------------------------------------------- backbone and head


@pytest.mark.parametrize("name", [*FAMILIES, *(name for name, spec in MODELS.items() if spec.native_shape[1] <= 200)])
def test_head_of_backbone_is_the_network(name: str) -> None:
    if name in FAMILIES:
        network, x = built(name).eval(), images(name)
    else:
        shape = MODELS[name].native_shape
        torch.manual_seed(0)
        network = build_model(ModelConfig(name=name), shape, 5 if name != "cats-cnn" else 2).eval()
        x = torch.rand(2, *shape)
    names = [key for key, _ in network.named_modules()]
    backbone, head = split_backbone(network)
    assert [key for key, _ in network.named_modules()] == names
    with torch.no_grad():
        features = backbone.eval()(x)
        assert features.ndim == 2
        assert torch.equal(head(features), network(x))
    shared = {id(parameter) for split in (backbone, head) for parameter in split.parameters()}
    assert shared == {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize(
    "name", [EMBEDDED, "ghostnet_050", "legacy_seresnet18", "resnetv2_18", "timm/resnet18", "vit_tiny_patch16_224"]
)
def test_features_are_those_that_timm_calls_so(name: str) -> None:
    network = built(name).eval()
    with torch.no_grad():
        x = images(name)
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
        features = split_backbone(network)[0](x)
    assert torch.equal(features, expected)
    assert features.shape[1] == network.head_hidden_size


def test_networks_without_one_dense_layer_at_the_end_are_refused() -> None:
    for name, words in (("squeezenet1_1", "Conv2d"), ("deit_tiny_distilled_patch16_224", "2 heads")):
        with shapes_only():
            library = torchvision_models.get_model if "squeeze" in name else timm.create_model
            network = library(name)
        with pytest.raises(UsageError, match=words):
            split_backbone(network)
