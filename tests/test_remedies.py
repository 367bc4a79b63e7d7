"""Less memory: what the remedies are said to take is what the prediction of that training says, and limits hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.budget.costs import count_training_flops
from convscope.budget.memory import predict_memory, predict_step
from convscope.budget.precision import Autocast
from convscope.budget.remedies import SLIMMER, Subject, plan_fit, price_remedies
from convscope.budget.trace import without_content
from convscope.budget.work import Speed, measure_speed
from convscope.config import ModelConfig, TrainConfig
from convscope.errors import UsageError
from convscope.models import MODELS, build_shapes
from convscope.models.saved import channels_last
from convscope.models.segments import checkpoint_activations
from convscope.results import Fit
from convscope.sizes import parse_bytes

CPU = torch.device("cpu")
SPEED = Speed(1e11, 2e11, 1e10, 1e-6)
SHAPE = (3, 32, 32)
TRAIN = TrainConfig(batch_size=64)


def build(name: str, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    return channels_last(build_shapes(ModelConfig(name=name), shape, 10))


def subject_of(name: str, train: TrainConfig = TRAIN) -> Subject:
    return Subject(build(name), SHAPE, train, CPU, SPEED)


def peak_of(name: str, train: TrainConfig) -> int:
    memory = predict_memory(build(name), SHAPE, batch_size=train.batch_size, train=train).memory
    return memory.training_peak_bytes


def configuration(fit: Fit, train: TrainConfig = TRAIN) -> TrainConfig:
    return replace(
        train,
        batch_size=fit.batch_size,
        accumulate=fit.accumulate,
        checkpoint_activations=fit.checkpoint_activations,
        mixed_precision=fit.mixed_precision,
    )


@pytest.mark.parametrize("name", ["cifar-base", "auto", "cifar-inception"])
@pytest.mark.parametrize("share", [0.8, 0.4])
def test_a_plan_fits_its_limit_with_the_same_pictures_a_step(name: str, share: float) -> None:
    limit = int(share * peak_of(name, TRAIN))
    fit = plan_fit(subject_of(name), limit)
    assert fit.training_peak_bytes == peak_of(name, configuration(fit)) <= limit
    assert fit.batch_size * fit.accumulate == TRAIN.batch_size
    assert fit.options


def test_what_fits_stays_as_it_is() -> None:
    peak = peak_of("auto", TRAIN)
    fit = plan_fit(subject_of("auto"), peak + 1000, beside_bytes=1000)
    assert (configuration(fit), fit.options, fit.time_factor) == (TRAIN, "", 1.0)
    assert plan_fit(subject_of("auto"), peak + 999, beside_bytes=1000).options


def test_of_the_ways_that_fit_the_quickest_is_chosen() -> None:
    """With costly operations, few of them win; where memory is slow, what moves least."""
    subject, limit = subject_of("cifar-base"), int(0.6 * peak_of("cifar-base", TRAIN))
    for speed in (Speed(1e15, 1e15, 1e15, 1e-3), Speed(1e9, 1e9, 1e15, 0.0)):
        fit = plan_fit(replace(subject, speed=speed), limit)
        for checkpointed in (False, True):
            for part in (64, 32, 16):
                train = replace(TRAIN, batch_size=part, accumulate=64 // part, checkpoint_activations=checkpointed)
                cost = predict_step(build("cifar-base"), SHAPE, batch_size=part, train=train)
                plain = predict_step(build("cifar-base"), SHAPE, batch_size=64, train=TRAIN)
                if cost.peak_bytes <= limit:
                    factor = 64 / part * speed.seconds(cost.work) / speed.seconds(plain.work)
                    assert fit.time_factor <= factor * 1.02


def test_an_impossible_limit_names_the_smallest_that_works() -> None:
    with pytest.raises(UsageError, match=r"too little .* smallest limit that would do is \d+MiB") as refused:
        plan_fit(subject_of("cifar-base"), 10**6, beside_bytes=5 * 10**5)
    found = re.search(r"do is (\d+MiB)", str(refused.value))
    assert found is not None
    limit = parse_bytes(found[1])
    fit = plan_fit(subject_of("cifar-base"), limit, beside_bytes=5 * 10**5)
    assert limit - 2**20 < fit.training_peak_bytes + 5 * 10**5 <= limit


def test_a_single_picture_is_not_offered_to_a_batch_norm_that_needs_two() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 32), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UsageError, match="--batch-size 2 "):
        plan_fit(Subject(network, SHAPE, TrainConfig(batch_size=4), CPU, SPEED), 1000)


@pytest.mark.parametrize("name", ["cifar-base", "cifar-residual"])
def test_remedies_take_what_their_training_takes(name: str) -> None:
    plain = peak_of(name, TRAIN)
    remedies = {remedy.options: remedy for remedy in price_remedies(subject_of(name), name=name, build=build)}
    for options, changed in (
        ("--batch-size 32 --accumulate 2", {"batch_size": 32, "accumulate": 2}),
        ("--checkpoint-activations", {"checkpoint_activations": True}),
    ):
        assert remedies[options].training_peak_bytes == peak_of(name, replace(TRAIN, **changed))  # type: ignore[arg-type]
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
    without = checkpoint_activations(without_content(network), spec.native_shape)
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


def test_maps_of_mixed_precision_take_half() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16 * 784, 2))
    full, mixed = (
        predict_memory(network, SHAPE, batch_size=32, train=replace(TRAIN, mixed_precision=mixed))
        for mixed in (False, True)
    )
    kept = [{layer.name: layer.saved_bytes for layer in budget.layers} for budget in (full, mixed)]
    assert kept[1]["1"] * 2 == kept[0]["1"] == 32 * 16 * 30 * 30 * 4
    assert full.memory.weights_bytes == mixed.memory.weights_bytes
    assert full.memory.gradients_bytes == mixed.memory.gradients_bytes
