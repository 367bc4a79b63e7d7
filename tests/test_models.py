"""One suite for every network of the table."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convscope.config import ModelConfig
from convscope.errors import UsageError
from convscope.memory.macs import count_macs, count_training_flops
from convscope.models import MODELS, build_model, count_parameters
from convscope.models.saved import SavedModel, channels_last, load_model, save_model
from convscope.models.surgery.first_layer import whiten_first_layer

# Published counts, but for N9, N10, their variants and our own, which are counted by hand below.
PUBLISHED_PARAMETERS = {
    "mlp": 101_770,
    "cnn-small": 8_490,
    "cnn": 421_642,
    "cnn-dropout": 225_034,
    "lenet5": 61_706,
    "alexnet-2012": 60_965_224,
    "cats-cnn": 4_737_473,
    "cifar-base": 1_442_698,
}
SMALL = {"alexnet-2012": (3, 63, 63), "cats-cnn": (1, 50, 50)}
"""Smaller images than their own, where those make the tests slow."""


def build(name: str) -> tuple[nn.Module, torch.Tensor, int]:
    shape = SMALL.get(name, MODELS[name].native_shape)
    torch.manual_seed(0)
    num_classes = min(10, MODELS[name].native_classes)
    return build_model(ModelConfig(name=name), shape, num_classes), torch.randn(3, *shape), num_classes


@pytest.mark.parametrize(("name", "num_params"), PUBLISHED_PARAMETERS.items())
def test_parameter_count_is_the_published_one(name: str, num_params: int) -> None:
    spec = MODELS[name]
    with torch.device("meta"):  # shapes without values
        network = build_model(ModelConfig(name=name), spec.native_shape, spec.native_classes)
    assert count_parameters(network) == num_params


def test_every_network_has_its_count_of_parameters_in_a_test() -> None:
    assert set(MODELS) == {"auto"} | set(PUBLISHED_PARAMETERS) | set(BLOCK_WIDTHS) | set(QUICK_WIDTHS)


@pytest.mark.parametrize("name", MODELS)
def test_logits_have_one_column_a_class(name: str) -> None:
    network, x, num_classes = build(name)
    assert network(x).shape == (3, num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    network, x, _ = build(name)
    F.cross_entropy(network(x), torch.zeros(3, dtype=torch.int64)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_deterministic_and_blind_to_batch_mates(name: str) -> None:
    network, x, _ = build(name)
    network.eval()
    with torch.no_grad():
        together = network(x)
        assert torch.equal(together, network(x))
        assert torch.allclose(together[1:2], network(x[1:2]), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    network, x, _ = build(name)
    network.eval()
    with torch.no_grad():
        plain = network(x)
        assert torch.allclose(
            channels_last(network)(x.contiguous(memory_format=torch.channels_last)), plain, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 33), (1, 8, 8), (3, 5, 5), (1, 67, 70)])
def test_other_images_work_or_are_refused_in_words(name: str, shape: tuple[int, int, int]) -> None:
    try:
        network = build_model(ModelConfig(name=name), shape, 4)
    except UsageError as error:
        refusal = str(error)
    else:
        assert network(torch.randn(2, *shape)).shape == (2, 4)
        return
    assert name in refusal
    assert "--image-size" in refusal


@pytest.mark.parametrize("name", MODELS)
def test_a_network_survives_saving(name: str, tmp_path: Path) -> None:
    network, x, num_classes = build(name)
    names = tuple(map(str, range(num_classes)))
    channels, *_ = shape = tuple(x.shape[1:])
    saved = SavedModel(channels_last(network), name, shape, names, (0.5,) * channels, (0.25,) * channels)
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    network.eval()
    with torch.no_grad():
        assert torch.equal(loaded.network(x), network(x))
    assert (loaded.input_shape, loaded.class_names, loaded.mean, loaded.std) == (shape, names, saved.mean, saved.std)


def definition(name: str, channels: int) -> nn.Sequential:
    """Return the layers up to the flatten as the definitions have them: ReLU right after the convolution."""
    relu, pool = nn.ReLU, nn.MaxPool2d
    match name:
        case "cnn" | "cnn-dropout" | "cats-cnn":
            pad = 1 if name == "cnn" else 0
            first, second = nn.Conv2d(channels, 32, 3, padding=pad), nn.Conv2d(32, 64, 3, padding=pad)
            layers = [first, relu(), pool(2), second, relu(), pool(2)]
        case "cnn-small":
            layers = [nn.Conv2d(channels, 10, 5), relu(), pool(2)]
            layers += [nn.Conv2d(10, 20, 5), relu(), nn.Dropout2d(0.5), pool(2)]
        case "alexnet-2012":
            norm = partial(nn.LocalResponseNorm, 5, alpha=5e-4, k=2.0)  # torch divides alpha by 5, the paper does not
            layers = [nn.Conv2d(channels, 96, 11, stride=4, padding=2), relu(), norm(), pool(3, 2)]
            layers += [nn.Conv2d(96, 256, 5, padding=2, groups=2), relu(), norm(), pool(3, 2)]
            layers += [nn.Conv2d(256, 384, 3, padding=1), relu(), nn.Conv2d(384, 384, 3, padding=1, groups=2), relu()]
            layers += [nn.Conv2d(384, 256, 3, padding=1, groups=2), relu(), pool(3, 2)]
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize("name", ["cnn", "cnn-dropout", "cats-cnn", "cnn-small", "alexnet-2012"])
def test_relu_after_max_pooling_gives_what_the_definition_gives(name: str) -> None:
    """Logits and every gradient are equal to the bit: max and ReLU commute, ties and zeros included."""
    network, x, _ = build(name)
    layers = list(network.eval())
    cut = next(index for index, layer in enumerate(layers) if isinstance(layer, nn.Flatten)) + 1
    defined = definition(name, x.shape[1])
    mine = list(nn.Sequential(*layers[:cut]).parameters())
    with torch.no_grad():
        for theirs, ours in zip(defined.parameters(), mine, strict=True):
            theirs.copy_(ours)
    expected = nn.Sequential(*defined, *layers[cut:]).eval()
    assert torch.equal(network(x), expected(x))
    ours = torch.autograd.grad(network(x)[:, 0].sum(), mine)
    theirs = torch.autograd.grad(expected(x)[:, 0].sum(), list(defined.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# ---------------------------------------------------------------- N8, N9, N10 and their cost, by hand

Cost = tuple[int, int]
"""Parameters, and multiply-accumulate operations on maps of 32x32."""
BLOCK_WIDTHS = {
    "cifar-inception": (64, 64, 128),
    "cifar-inception-eqparams": (67, 67, 134),
    "cifar-inception-eqmacs": (95, 95, 189),
    "cifar-residual": (64, 64, 128),
    "cifar-residual-eqparams": (56, 56, 113),
    "cifar-residual-eqmacs": (38, 38, 75),
}


def unit_cost(ins: int, outs: int, kernel: int) -> Cost:
    """Count a convolution and its bias."""
    weights = ins * outs * kernel**2
    return weights + outs, weights * 32 * 32


def block_costs(kind: str, ins: int, outs: int) -> list[Cost]:
    if kind == "residual":
        shortcut = [unit_cost(ins, outs, 1)] if ins != outs else []
        return [unit_cost(ins, outs, 3), unit_cost(outs, outs, 3), *shortcut]
    ones, fives = outs // 4, outs // 8
    threes = outs - ones - 2 * fives
    units = [(ins, ones, 1), (ins, threes * 3 // 4, 1), (threes * 3 // 4, threes, 3)]
    units += [(ins, fives // 2, 1), (fives // 2, fives, 5), (ins, fives, 1)]
    return [unit_cost(*unit) for unit in units]


def network_cost(kind: str, widths: tuple[int, ...]) -> Cost:
    parts = [(3 * 32 * 25 + 32, 3 * 32 * 25 * 1024), (widths[-1] * 1024 * 10 + 10, widths[-1] * 1024 * 10)]
    parts.append((2 * widths[-1], 0))  # the batch norm
    for ins, outs in pairwise((32, *widths)):
        parts += block_costs(kind, ins, outs)
    return sum(split[0] for split in parts), sum(split[1] for split in parts)


BASE_COST = (1_442_698, (2_400 + 32 * 64 * 9 + 64 * 64 * 9 + 64 * 128 * 9) * 1024 + 131_072 * 10)


@pytest.mark.parametrize(("name", "widths"), BLOCK_WIDTHS.items())
def test_networks_of_blocks_cost_what_a_hand_count_says(name: str, widths: tuple[int, ...]) -> None:
    network, _, _ = build(name)
    cost = count_parameters(network), count_macs(network, (3, 32, 32))
    assert cost == network_cost(name.split("-")[1], widths)


@pytest.mark.parametrize("name", [name for name in BLOCK_WIDTHS if "-eq" in name])
def test_variants_cost_what_n8_costs_and_no_other_factor_comes_nearer(name: str) -> None:
    network, _, _ = build("cifar-base")
    assert (count_parameters(network), count_macs(network, (3, 32, 32))) == BASE_COST
    _, kind, equal = name.split("-")
    which = ["eqparams", "eqmacs"].index(equal)

    def off(widths: tuple[int, ...]) -> float:
        return abs(network_cost(kind, widths)[which] / BASE_COST[which] - 1)

    factors = [i / 2048 for i in range(1024, 4096)]
    nearest = min({tuple(round(width * factor) for width in (64, 64, 128)) for factor in factors}, key=off)
    assert BLOCK_WIDTHS[name] == nearest
    assert off(nearest) < 0.01


# ---------------------------------------------------------------- quick, by hand

QUICK_WIDTHS = {"quick": (24, 48, 96), "quick-wide": (32, 128, 128)}


@pytest.mark.parametrize(("name", "widths"), QUICK_WIDTHS.items())
def test_quick_networks_cost_what_a_hand_count_says(name: str, widths: tuple[int, int, int]) -> None:
    network, _, _ = build(name)
    parts = [(24 * 12 + 24, 24 * 12 * 31 * 31), (widths[-1] * 10 + 10, widths[-1] * 10)]
    for ins, outs, side in zip((24, *widths), widths, (31, 15, 7), strict=False):  # 2x2 leaves 31, each block half
        pooled = side // 2
        parts.append((9 * ins * outs + 2 * outs, 9 * ins * outs * side**2))
        parts.append((9 * outs * outs + 2 * outs, 9 * outs * outs * pooled**2))
    expected = sum(split[0] for split in parts), sum(split[1] for split in parts)
    assert (count_parameters(network), count_macs(network, (3, 32, 32))) == expected


def test_quick_starts_with_convolutions_that_are_the_identity() -> None:
    network, _, _ = build("quick")
    for layer in list(network)[1:]:
        if isinstance(layer, nn.Conv2d):
            x = torch.randn(2, layer.in_channels, 6, 6)
            assert torch.allclose(layer(x)[:, : layer.in_channels], x, atol=1e-6)


# ---------------------------------------------------------------- whitening


@pytest.mark.parametrize(("name", "channels"), [("quick", 3), ("auto", 1), ("lenet5", 1)])
def test_whitened_channels_have_variance_one_and_are_uncorrelated(name: str, channels: int) -> None:
    """Over images whose pixels are smooth in space and across colours, as those of photos are."""
    torch.manual_seed(0)
    noise = torch.randn(200, channels, 34, 34)
    x = 5 * F.avg_pool2d(noise + noise.roll(1, 1), 3, stride=1, padding=1)[..., 1:33, 1:33] + 0.3
    network = build_model(ModelConfig(name=name), (channels, 32, 32), 10)
    layer = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    layer.padding = (0, 0)
    whiten_first_layer(network, x)
    half = layer.out_channels // 2
    with torch.no_grad():
        maps = layer(x).transpose(0, 1).flatten(1).double()
    assert torch.allclose(maps[half:], -maps[:half], atol=1e-4)
    mean = 0 if layer.bias is not None else maps[:half].mean(1, keepdim=True)
    assert torch.allclose(maps[:half].mean(1, keepdim=True), torch.as_tensor(mean).double(), atol=1e-3)
    assert torch.allclose(torch.cov(maps[:half]), torch.eye(half).double(), atol=0.02)
    assert not any(p.requires_grad for p in layer.parameters())


def test_whitening_takes_the_strongest_directions() -> None:
    """Against scikit-learn's PCA of the same patches."""
    torch.manual_seed(0)
    x = F.avg_pool2d(torch.randn(30, 3, 20, 20), 5, stride=1)
    layer = nn.Conv2d(3, 8, 3, stride=2)
    whiten_first_layer(nn.Sequential(layer), x)
    patches = F.unfold(x, 3, stride=2).transpose(1, 2).reshape(-1, 27).numpy()
    found = PCA(4, svd_solver="full").fit(patches)
    scale = (found.explained_variance_[:, None] + 5e-4) ** 0.5
    mine = layer.weight.detach().flatten(1)[:4].numpy() * scale
    assert np.abs((mine * found.components_).sum(1)) == pytest.approx(np.ones(4), abs=1e-2)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 25, 2), nn.Conv2d(3, 12, 3, groups=3), nn.Linear(12, 4)])
def test_a_first_layer_that_cannot_be_whitened_is_refused_in_words(layer: nn.Module) -> None:
    with pytest.raises(UsageError, match="first layer"):
        whiten_first_layer(nn.Sequential(nn.Flatten(), layer), torch.rand(4, 3, 8, 8))


@pytest.mark.parametrize("name", QUICK_WIDTHS)
def test_operations_of_a_frozen_first_layer_are_counted_once(name: str) -> None:
    network, _, _ = build(name)
    first = 2 * count_macs(nn.Sequential(network[0]), (3, 32, 32))
    before = count_training_flops(network, (3, 32, 32))
    network[0].weight.requires_grad_(False)
    assert count_training_flops(network, (3, 32, 32)) == before - first


def test_alexnet_has_the_feature_maps_and_columns_of_the_paper() -> None:
    spec = MODELS["alexnet-2012"]
    with torch.device("meta"):
        network = build_model(ModelConfig(name="alexnet-2012"), spec.native_shape, 1000)
        shapes, x = [], torch.zeros(1, *spec.native_shape)
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                shapes.append(tuple(x.shape[1:]))
    maps = [(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13)]
    assert shapes == [*maps, (256, 6, 6)]
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    one_column = sum(layer.weight.numel() * (layer.groups - 1) for layer in convolutions)
    assert count_parameters(network) + one_column == 62_378_344


def test_two_logits_from_one_give_binary_cross_entropy() -> None:
    network, x, _ = build("cats-cnn")
    labels = torch.tensor([0, 1, 1])
    pair = network(x)
    expected = F.binary_cross_entropy_with_logits(pair[:, 1], labels.float())
    assert torch.allclose(F.cross_entropy(pair, labels), expected, atol=1e-6)
    assert torch.equal(pair[:, 0], torch.zeros(3))


def excess_of_groups(network: nn.Module, x: torch.Tensor) -> int:
    """Return what torch counts too much: the weight gradient of a grouped convolution, as if it had no groups."""
    excess = 0
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            excess += 2 * (layer.groups - 1) * layer.weight.numel() * x[:, 0].numel()
    return excess


@pytest.mark.parametrize("name", MODELS)
def test_macs_are_those_that_torch_counts(name: str) -> None:
    network, x, _ = build(name)
    shape = tuple(x.shape[1:])
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        network.eval()(x)
    assert 2 * 3 * count_macs(network, shape) == forward.get_total_flops()
    with FlopCounterMode(display=False) as both:
        F.cross_entropy(network.train()(x), torch.zeros(3, dtype=torch.int64)).backward()
    assert 3 * count_training_flops(network, shape) + excess_of_groups(network, x) == both.get_total_flops()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'lenet'.*Did you mean 'lenet5'.*auto"):
        build_model(ModelConfig(name="lenet"), (1, 28, 28), 10)


@pytest.mark.parametrize("name", MODELS)
def test_counting_leaves_no_mark(name: str) -> None:
    network, x, _ = build(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network[0].eval()
    modes = [module.training for module in network.modules()]
    count_macs(network, tuple(x.shape[1:]))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
