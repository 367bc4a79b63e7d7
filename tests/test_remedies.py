"""Less memory: what the remedies are said to take is what the prediction of that training says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.config import DEFAULT_COMPUTE, ComputeConfig, ModelConfig, TrainConfig
from convscope.memory.macs import count_training_flops
from convscope.memory.precision import Autocast
from convscope.memory.predict import predict_memory, predict_step
from convscope.memory.remedies import SLIMMER, Subject, price_remedies
from convscope.memory.speed import Speed, measure_speed
from convscope.memory.trace import to_meta
from convscope.models import MODELS, build_shapes
from convscope.models.saved import channels_last
from convscope.models.surgery.segments import checkpoint_activations

CPU = torch.device("cpu")
SPEED = Speed(1e11, 2e11, 1e10, 1e-6)
SHAPE = (3, 32, 32)
TRAIN = TrainConfig(batch_size=64)


def build(name: str, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    return channels_last(build_shapes(ModelConfig(name=name), shape, 10))


def subject_of(name: str) -> Subject:
    return Subject(build(name), SHAPE, TRAIN, ComputeConfig(), CPU, SPEED)


def peak_of(name: str, train: TrainConfig, compute: ComputeConfig = DEFAULT_COMPUTE) -> int:
    memory = predict_memory(build(name), SHAPE, batch_size=train.batch_size, train=train, compute=compute).memory
    return memory.training_peak_bytes


@pytest.mark.parametrize("name", ["cifar-base", "cifar-residual"])
def test_remedies_take_what_their_training_takes(name: str) -> None:
    plain = peak_of(name, TRAIN)
    remedies = {remedy.options: remedy for remedy in price_remedies(subject_of(name), name=name, build=build)}
    for options, peak in (
        ("--micro-batches 2", peak_of(name, replace(TRAIN, batch_size=32, accumulate=2))),
        ("--checkpoint-activations", peak_of(name, TRAIN, ComputeConfig(checkpoint_activations=True))),
    ):
        assert remedies[options].training_peak_bytes == peak
        assert not remedies[options].changes_result
    for remedy in remedies.values():
        assert remedy.saved_bytes == plain - remedy.training_peak_bytes
        assert remedy.time_factor is not None
    small = predict_memory(build(name, (3, 24, 24)), (3, 24, 24), batch_size=64, train=TRAIN).memory
    assert remedies["--image-size 24"].training_peak_bytes == small.training_peak_bytes
    assert remedies["--image-size 24"].changes_result
    assert remedies["--freeze"].changes_result


@pytest.mark.parametrize("name", [name for name in SLIMMER if name in MODELS])
def test_a_slimmer_network_computes_less(name: str) -> None:
    shape = MODELS[name].native_shape
    macs = [predict_memory(build(one, shape), shape, batch_size=2, train=TRAIN).macs for one in (name, SLIMMER[name])]
    assert macs[0] > macs[1]


@pytest.mark.parametrize("name", ["cnn", "cifar-inception", "lenet5"])
def test_the_work_of_a_step_is_that_of_its_layers(name: str) -> None:
    """The operations counted one by one against those counted layer by layer."""
    shape = MODELS[name].native_shape
    step = predict_step(build(name, shape), shape, batch_size=4, train=TrainConfig(accumulate=3))
    network = channels_last(build_shapes(ModelConfig(name=name), shape, 10)).to_empty(device="cpu")
    assert sum(work.flops for work in step.work) == 4 * count_training_flops(network, shape)


def test_the_speed_of_a_machine_is_something() -> None:
    speed = measure_speed(CPU, None)
    assert speed.reduced_flops_per_second == speed.flops_per_second > 1e8
    assert speed.bytes_per_second > 1e7
    assert 0 < speed.seconds_per_operation < 1


# ---------------------------------------------------------------- checkpointing and mixed precision


@pytest.mark.parametrize("name", [*MODELS])
def test_a_network_without_content_is_cut_where_the_real_one_is(name: str) -> None:
    spec = MODELS[name]
    if spec.native_shape[1] > 100:
        pytest.skip("large: its cuts are compared by benchmarks/memory_predictor.py")
    network = channels_last(build_shapes(ModelConfig(name=name), spec.native_shape, 10)).to_empty(device="cpu")
    for value in (*network.parameters(), *network.buffers()):
        value.data = torch.rand(value.shape) if value.is_floating_point() else torch.zeros_like(value)
    real = checkpoint_activations(network, spec.native_shape)
    without = checkpoint_activations(to_meta(network), spec.native_shape)
    assert [len(segment) for segment in without.segments] == [len(segment) for segment in real.segments]


class Branches(nn.Module):
    """Convolutions, norm, concatenation and product of two formats, and a dense end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.end = nn.BatchNorm2d(8), nn.Linear(19 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.a(x)))
        y = torch.cat([self.b(y), F.max_pool2d(x, 1), y * torch.sigmoid(self.b(y))], 1)
        return self.end(F.adaptive_avg_pool2d(y, 4).flatten(1))


def test_the_casts_are_those_of_torch() -> None:
    """What every layer returns and what autograd keeps, under torch's own autocast and under ours."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    seen: list[list[object]] = []
    for device in ("cpu", "meta"):
        network = Branches().to(device)
        x, labels = torch.rand(2, 3, 8, 8, device=device), torch.zeros(2, dtype=torch.int64, device=device)
        notes: list[object] = []
        for module in network.modules():
            module.register_forward_hook(lambda _, __, y, notes=notes: notes.append((y.dtype, y.shape)))

        def keep(tensor: torch.Tensor, notes: list[object] = notes) -> torch.Tensor:
            notes.append((tensor.dtype, tensor.shape))
            return tensor

        mode = torch.autocast("cpu", dtype=torch.bfloat16) if device == "cpu" else Autocast(torch.bfloat16)
        with mode, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            F.cross_entropy(network(x), labels)
        seen.append(notes)
    assert seen[0] == seen[1]


def test_feature_maps_in_16_bits_take_half() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16 * 784, 2))
    full, mixed = (
        predict_memory(network, SHAPE, batch_size=32, train=TRAIN, compute=ComputeConfig(precision=precision))
        for precision in ("float32", "auto")
    )
    kept = [{layer.name: layer.saved_bytes for layer in budget.layers} for budget in (full, mixed)]
    assert kept[1]["1"] * 2 == kept[0]["1"] == 32 * 16 * 30 * 30 * 4
    assert full.memory.weights_bytes == mixed.memory.weights_bytes
    assert full.memory.gradients_bytes == mixed.memory.gradients_bytes
