"""One suite for every network of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convscope.budget.costs import count_macs, count_training_flops
from convscope.config import ModelConfig
from convscope.errors import UsageError
from convscope.models import MODELS, build_model, count_parameters
from convscope.models.saved import SavedModel, channels_last, load_model, save_model

PUBLISHED_PARAMETERS = {
    "mlp": 101_770,
    "cnn-small": 8_490,
    "cnn": 421_642,
    "cnn-dropout": 225_034,
    "lenet5": 61_706,
    "cats-cnn": 4_737_473,
    "cifar-base": 1_442_954,
}


def build(name: str) -> tuple[nn.Module, torch.Tensor, int]:
    spec = MODELS[name]
    torch.manual_seed(0)
    network = build_model(ModelConfig(name=name), spec.native_shape, spec.native_classes)
    return network, torch.randn(3, *spec.native_shape), spec.native_classes


@pytest.mark.parametrize(("name", "num_params"), PUBLISHED_PARAMETERS.items())
def test_parameter_count_is_the_published_one(name: str, num_params: int) -> None:
    assert count_parameters(build(name)[0]) == num_params


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
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 33), (1, 8, 8), (3, 5, 5)])
def test_other_pictures_work_or_are_refused_in_words(name: str, shape: tuple[int, int, int]) -> None:
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
    channels = x.shape[1]
    shape = MODELS[name].native_shape
    saved = SavedModel(channels_last(network), name, shape, names, (0.5,) * channels, (0.25,) * channels)
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    network.eval()
    with torch.no_grad():
        assert torch.equal(loaded.network(x), network(x))
    assert (loaded.input_shape, loaded.class_names, loaded.mean, loaded.std) == (shape, names, saved.mean, saved.std)


def test_relu_after_max_pooling_is_relu_before_it() -> None:
    x = torch.randn(4, 3, 9, 9)
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    assert torch.equal(pool(relu(x)), relu(pool(x)))


def test_two_logits_from_one_give_binary_cross_entropy() -> None:
    network, x, _ = build("cats-cnn")
    x, labels = x[..., :200, :200], torch.tensor([0, 1, 1])
    pair = network(x)
    expected = F.binary_cross_entropy_with_logits(pair[:, 1], labels.float())
    assert torch.allclose(F.cross_entropy(pair, labels), expected, atol=1e-6)
    assert torch.equal(pair[:, 0], torch.zeros(3))


@pytest.mark.parametrize("name", MODELS)
def test_macs_are_those_that_torch_counts(name: str) -> None:
    network, x, _ = build(name)
    shape = MODELS[name].native_shape
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        network.eval()(x)
    assert 2 * 3 * count_macs(network, shape) == forward.get_total_flops()
    with FlopCounterMode(display=False) as both:
        F.cross_entropy(network.train()(x), torch.zeros(3, dtype=torch.int64)).backward()
    assert 3 * count_training_flops(network, shape) == both.get_total_flops()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'lenet'.*Did you mean 'lenet5'.*auto"):
        build_model(ModelConfig(name="lenet"), (1, 28, 28), 10)


@pytest.mark.parametrize("name", MODELS)
def test_counting_leaves_no_mark(name: str) -> None:
    network, _, _ = build(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network[0].eval()
    modes = [module.training for module in network.modules()]
    count_macs(network, MODELS[name].native_shape)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
