"""The loop: what it learns, exact resume after kill -9 and signals, early stop, NaN, accumulation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.config import ComputeConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from convscope.data.augment import MIXUP, mixup_of
from convscope.data.batches import (
    Preprocessing,
    ResidentImages,
    channel_statistics,
    make_preprocessing,
    make_resident,
    training_batches,
)
from convscope.errors import Interrupted, TrainingError, UsageError
from convscope.memory.stages import PlanInputs, TracedModel
from convscope.models import build_model
from convscope.models.saved import channels_last
from convscope.models.surgery.first_layer import whiten_first_layer
from convscope.progress import Progress, ignore_progress
from convscope.results.run import EpochRecord
from convscope.run.prepare import prepare
from convscope.seeds import permutation
from convscope.storage.run_folder import read_history
from convscope.training.head import balanced_class_weights, cross_entropy
from convscope.training.loop import TrainResult, is_better, train
from convscope.training.optimizers import Optimizer, orthogonalize
from convscope.training.schedules import SCHEDULES
from convscope.training.state import TrainingData
from tests.support import CPU, make_image_set, new_network, same_weights, training_data


def test_the_loop_is_the_textbook_loop(tmp_path: Path) -> None:
    """Against plain torch: same batches, torch's own Adam and OneCycle-free constant rate, written out here."""
    data, config = training_data(), TrainConfig(epochs=3, batch_size=16, lr=0.01, schedule="constant")
    ours, theirs = new_network(), new_network()
    result = train(ours, data, config, tmp_path, on_progress=ignore_progress)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for epoch in (1, 2, 3):
        for x, y, _ in training_batches(
            data.train, data.preprocessing, TrainConfig(batch_size=16, seed=0), epoch=epoch
        ):
            optimizer.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            optimizer.step()
    assert result.best_epoch == 3
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert result.history[-1].train_accuracy > 0.9
    assert result.history[-1].examples_seen == 270
    assert read_history(tmp_path) == result.history


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.8, None])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_torchs(name: str, momentum: float | None, weight_decay: float) -> None:
    config, shape = ModelConfig(name="cnn-small"), (1, 28, 28)
    ours, theirs = channels_last(build_model(config, shape, 3)), build_model(config, shape, 3)
    theirs.load_state_dict(ours.state_dict())
    config = TrainConfig(optimizer=name, lr=0.01, momentum=momentum, weight_decay=weight_decay)  # type: ignore[arg-type]
    first = 0.9 if momentum is None else momentum
    made: torch.optim.Optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=first, weight_decay=weight_decay),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(first, 0.999), weight_decay=weight_decay),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(first, 0.999), weight_decay=weight_decay),
    }[name](theirs.parameters())
    optimizer = Optimizer(ours, config)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            gradient = torch.randn(mine.shape, generator=generator)
            mine.grad, other.grad = torch.empty_like(mine).copy_(gradient), gradient.clone()
        optimizer.step()
        made.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.6, None])
def test_muon_is_torchs(momentum: float | None, weight_decay: float) -> None:
    """Against torch.optim.Muon on the weights but the last, in bfloat16 there, and Adam on the rest."""
    ours = channels_last(build_model(ModelConfig(name="cnn"), (1, 8, 8), 3))
    parameters = [p.detach().clone().flatten(min(1, p.ndim - 1)).contiguous() for p in ours.parameters()]
    matrices = [p for p in parameters if p.ndim > 1][:-1]
    rest = [p for p in parameters if not any(p is matrix for matrix in matrices)]
    first = 0.9 if momentum is None else momentum
    muon = torch.optim.Muon(
        matrices, lr=0.01, momentum=first, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.Adam(rest, lr=0.01, betas=(0.9, 0.99))
    config = TrainConfig(optimizer="muon", lr=0.01, momentum=momentum, beta2=0.99, weight_decay=weight_decay)
    optimizer = Optimizer(ours, config)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for mine, other in zip(ours.parameters(), parameters, strict=True):
            gradient = torch.randn(mine.shape, generator=generator)
            mine.grad, other.grad = torch.empty_like(mine).copy_(gradient), gradient.view(other.shape).clone()
        optimizer.step()
        muon.step()
        adam.step()
    for mine, other in zip(ours.parameters(), parameters, strict=True):
        exact = any(other is parameter for parameter in rest)
        assert torch.allclose(mine.reshape(other.shape), other, atol=1e-6 if exact else 2e-3)


@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (12, 12)])
def test_orthogonalizing_keeps_directions_and_levels_their_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    sizes = u.T @ orthogonalize(matrix).double() @ v.T
    assert torch.allclose(sizes, sizes.diag().diag(), atol=1e-4)
    clear = s > 0.05 * s.max()
    assert (sizes.diag()[clear] > 0.6).all()
    assert (sizes.diag() < 1.3).all()


def test_only_images_of_the_training_part_decide_a_whitened_layer() -> None:
    config = RunConfig(
        data=DataConfig(source="made"),
        model=ModelConfig(name="quick"),
        train=TrainConfig(whiten=True),
        compute=ComputeConfig(device="cpu"),
    )
    images = make_image_set((40, 40, 40), side=16)
    first = prepare(config, ignore_progress, images=images)
    others = np.concatenate([first.splits.validation, first.splits.test])
    changed = images.images.copy()
    changed[others] = np.random.default_rng(1).integers(0, 256, changed[others].shape, dtype=np.uint8)
    second = prepare(config, ignore_progress, images=replace(images, images=changed))
    assert np.array_equal(first.splits.train, second.splits.train)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_stopped_and_resumed_is_bit_identical(tmp_path: Path, name: str) -> None:
    """With a whitened first layer, and in reduced precision where the processor has it."""
    images = make_image_set((40, 40, 40), side=16)
    resident = make_resident(images, np.random.default_rng(0).permutation(120), CPU)
    preprocessing = make_preprocessing(*channel_statistics(images.images), normalize=True)
    data = TrainingData(resident, None, preprocessing, images.ids)
    config = TrainConfig(epochs=2, batch_size=30, optimizer=name, lr=0.01, augment=("flip",))  # type: ignore[arg-type]

    def sit(folder: str, *answers: bool, resume: bool = False) -> nn.Module:
        torch.manual_seed(0)
        network = channels_last(build_model(ModelConfig(name="quick"), (1, 16, 16), 3))
        whiten_first_layer(network, preprocessing.apply(resident.images))
        before = {key: value.clone() for key, value in network.state_dict().items()}
        stop = iter(answers)
        (tmp_path / folder).mkdir(exist_ok=True)
        train(
            network,
            data,
            config,
            tmp_path / folder,
            compute=ComputeConfig(precision="auto"),
            on_progress=ignore_progress,
            stop_requested=lambda: next(stop, False),
            resume=resume,
        )
        changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == set(before) - {"0.weight", "0.bias"}
        return network

    whole = sit("whole")
    with pytest.raises(Interrupted):
        sit("stopped", *[False] * 5, True)
    assert same_weights(whole, sit("stopped", resume=True))


def test_a_parameter_without_gradient_stays() -> None:
    network = new_network()
    optimizer = Optimizer(network, TrainConfig(weight_decay=0.1))
    before = [p.detach().clone() for p in network.parameters()]
    first = next(network.parameters())
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert [torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True)] == [False, True, True, True]


def test_schedules() -> None:
    assert [SCHEDULES["constant"](p) for p in (0, 0.5, 1)] == [1, 1, 1]
    one_cycle = [SCHEDULES["one-cycle"](p / 100) for p in range(101)]
    assert max(one_cycle) == one_cycle[30] == 1
    assert one_cycle[100] == pytest.approx(0, abs=1e-12)
    assert one_cycle[0] == pytest.approx(0.04)
    assert one_cycle[:31] == sorted(one_cycle[:31])
    assert one_cycle[30:] == sorted(one_cycle[30:], reverse=True)


@pytest.mark.parametrize("n", [40, 97])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("augment", [(), ("flip", "mixup")])
def test_accumulation_is_a_larger_batch(tmp_path: Path, n: int, weighted: bool, augment: tuple[str, ...]) -> None:
    """A batch of 64, and groups of smaller ones with a short last one, whole or in micro-batches, give one network."""
    images, order = make_image_set((60, 40, 20)), np.random.default_rng(0).permutation(120)[:n]
    given = replace(
        training_data(),
        train=make_resident(images, order, CPU),
        num_classes=3,
        class_weights=balanced_class_weights(images.labels[order], 3) if weighted else None,
    )

    def trained(batch_size: int, accumulate: int, micro_batches: int = 1) -> tuple[nn.Module, TrainResult]:
        config = TrainConfig(
            epochs=2, batch_size=batch_size, accumulate=accumulate, lr=0.1, optimizer="sgd", augment=augment
        )
        folder = tmp_path / f"{batch_size} {accumulate} {micro_batches}"
        folder.mkdir()
        network, compute = new_network(), ComputeConfig(micro_batches=micro_batches)
        return network, train(network, given, config, folder, compute=compute, on_progress=ignore_progress)

    whole, expected = trained(64, 1)
    for options in ((32, 2), (16, 4), (32, 2, 4), (64, 1, 4)):
        network, result = trained(*options)
        for mine, other in zip(network.parameters(), whole.parameters(), strict=True):
            assert torch.allclose(mine, other, atol=1e-6), options
        for ours, theirs in zip(result.history, expected.history, strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-6)
            assert (ours.train_accuracy, ours.lr) == (theirs.train_accuracy, theirs.lr)


@pytest.mark.parametrize("batch_size", [16, 100])
def test_the_loss_of_an_epoch_weighs_each_image_by_its_class(tmp_path: Path, batch_size: int) -> None:
    """Against torch on all images at once; at this rate the weights stay what they are."""
    weights, network = (1.0, 2.0, 5.0), new_network()
    data, config = (
        replace(training_data(), class_weights=weights),
        TrainConfig(epochs=1, batch_size=batch_size, lr=1e-9),
    )
    assert isinstance(data.train, ResidentImages)
    result = train(network, data, config, tmp_path, on_progress=ignore_progress)
    with torch.no_grad():
        logits = network(data.preprocessing.apply(data.train.images, data.train.rows))
    expected = float(F.cross_entropy(logits, data.train.labels, torch.tensor(weights)))
    assert result.history[0].train_loss == pytest.approx(expected, abs=1e-5)
    record = cross_entropy(logits.numpy(), data.train.labels.numpy(), weights)
    assert record == pytest.approx(expected, abs=1e-6)


def normalizing_network() -> nn.Module:
    """Return a network whose batch norm sees one number an image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("micro_batches", [1, 8, 15, 16])
@pytest.mark.parametrize("n", [3, 17, 19, 33])
def test_no_batch_of_one_image_reaches_batch_norm(tmp_path: Path, n: int, micro_batches: int) -> None:
    images = make_image_set((40, 40, 40))
    data = replace(training_data(), train=make_resident(images, np.arange(0, 120, 3)[:n], CPU))
    network, compute = normalizing_network(), ComputeConfig(micro_batches=micro_batches)
    seen: list[int] = []
    network[0].register_forward_hook(lambda module, inputs, _: seen.append(len(inputs[0])) if module.training else None)
    config = TrainConfig(epochs=1, batch_size=16)
    train(network, data, config, tmp_path, compute=compute, on_progress=ignore_progress)
    assert sum(seen) == n
    assert min(seen) >= 2
    inputs = PlanInputs(
        TracedModel(network, (1, 8, 8)), 3, n, 0, 0, config, compute, False, CPU, 0, 0,
    )  # fmt: skip
    assert max(seen) == inputs.micro_batch_size  # what the plan counts on


def test_patience_stops_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    data = training_data()
    wrong = data.validation
    assert wrong is not None
    flipped = TrainingData(  # validation labels that training makes ever more improbable
        data.train,
        replace(wrong, labels=(wrong.labels + 1) % 3),
        data.preprocessing,
        data.ids,
    )
    network = new_network()
    config = TrainConfig(epochs=50, batch_size=16, lr=0.01, patience=2)
    result = train(network, flipped, config, tmp_path, on_progress=ignore_progress)
    best = max(result.history, key=lambda record: (record.validation_accuracy, -(record.validation_loss or 0)))
    assert best.epoch == result.best_epoch
    assert len(result.history) == result.best_epoch + 2 < 50
    with torch.no_grad():
        x = data.preprocessing.apply(wrong.images, wrong.rows)
        assert float(F.cross_entropy(network(x), (wrong.labels + 1) % 3)) == pytest.approx(
            best.validation_loss, abs=1e-6
        )


def test_the_better_epoch_is_more_often_right_or_surer_of_as_much() -> None:
    def epoch(accuracy: float | None, loss: float | None) -> EpochRecord:
        return EpochRecord(1, 0.1, 0.9, loss, accuracy, 0.001, 100, 1.0)

    assert is_better(epoch(0.96, 0.3), epoch(0.95, 0.2))
    assert not is_better(epoch(0.95, 0.1), epoch(0.96, 0.2))
    assert is_better(epoch(0.95, 0.1), epoch(0.95, 0.2))
    assert not is_better(epoch(0.95, 0.2), epoch(0.95, 0.2))
    assert is_better(epoch(None, None), epoch(None, None))


def test_patience_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="patience needs a validation split"):
        train(
            new_network(),
            training_data(validation=False),
            TrainConfig(patience=1),
            tmp_path,
            on_progress=ignore_progress,
        )


def test_a_loss_that_is_not_a_number_stops_with_step_rate_and_images(tmp_path: Path) -> None:
    """Case 39: a broken preprocessing poisons every batch from step 0; a huge rate poisons a later one."""
    data = training_data()
    poisoned = TrainingData(data.train, data.validation, Preprocessing((math.nan,), (1.0,)), data.ids)
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 1 \(epoch 1\), learning rate .*images \d+\.png, .*--lr"
    ):
        train(new_network(), poisoned, TrainConfig(batch_size=30), tmp_path, on_progress=ignore_progress)


def test_progress_tells_what_a_user_wants_to_know(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(new_network(), training_data(), TrainConfig(epochs=2), tmp_path, on_progress=seen.append)
    assert seen[-1].stage == "epoch 2/2"
    assert (seen[-1].done, seen[-1].total) == (90, 90)
    assert set(seen[-1].values) >= {"loss", "validation", "images/s", "memory", "left"}


def test_float16_scaling_changes_nothing_and_skips_infinite_gradients() -> None:
    """The scaler of float16 devices drives our optimizer by the same names as torch's; a CPU can run it too."""
    plain, scaled = new_network(), new_network()
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 3
    optimizer, other = (Optimizer(network, TrainConfig(lr=0.1, optimizer="sgd")) for network in (plain, scaled))
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(scaled(x), y)).backward()
        scaler.step(other)  # type: ignore[arg-type]
        scaler.update()
        other.zero_grad()
    for mine, theirs in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    before = [p.detach().clone() for p in scaled.parameters()]
    scaler.scale(F.cross_entropy(scaled(x * math.inf), y)).backward()
    scaler.step(other)  # type: ignore[arg-type]
    assert all(torch.equal(p, q) for p, q in zip(scaled.parameters(), before, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_mixture_is_that_of_its_parts(tmp_path: Path, weighted: bool) -> None:
    """By hand: cross-entropy is linear in the target, so that of a mixture is the weighted mean of its two labels'."""
    data = replace(training_data(), num_classes=3, class_weights=(1.0, 2.0, 5.0) if weighted else None)
    config = TrainConfig(epochs=1, batch_size=90, lr=1e-9, augment=("mixup",), label_smoothing=0.1)
    network = new_network()
    result = train(network, data, config, tmp_path, on_progress=ignore_progress)
    numbers = permutation(90, 0, "order", 1)
    partners, shares = (torch.from_numpy(each) for each in mixup_of(numbers, 90, 0, MIXUP, 1))
    assert isinstance(data.train, ResidentImages)
    x = data.preprocessing.apply(data.train.images, data.train.rows)
    own, other = data.train.labels[torch.from_numpy(numbers)], data.train.labels[partners]
    mixed = shares[:, None, None, None] * x[torch.from_numpy(numbers)] + (1 - shares)[:, None, None, None] * x[partners]
    weights = torch.tensor([1.0, 2.0, 5.0]) if weighted else torch.ones(3)
    with torch.no_grad():
        logits = network(mixed)
    each = [F.cross_entropy(logits, labels, weights, label_smoothing=0.1, reduction="none") for labels in (own, other)]
    counts = shares * weights[own] + (1 - shares) * weights[other]
    expected = (shares * each[0] + (1 - shares) * each[1]).sum() / counts.sum()
    assert result.history[0].train_loss == pytest.approx(float(expected), rel=1e-4)
    right = float((logits.argmax(1) == own).double().mean())
    assert result.history[0].train_accuracy == pytest.approx(right)  # the larger share counts


def test_mixup_resumes_bit_identically(tmp_path: Path) -> None:
    data = replace(training_data(), num_classes=3)
    config = TrainConfig(epochs=2, batch_size=16, augment=("crop", "erase", "mixup"))
    compute = ComputeConfig(checkpoint_steps=1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    whole, stopped = new_network(), new_network()
    train(whole, data, config, tmp_path / "a", compute=compute, on_progress=ignore_progress)
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        train(
            stopped,
            data,
            config,
            tmp_path / "b",
            compute=compute,
            on_progress=ignore_progress,
            stop_requested=lambda: next(asked),
        )
    again = new_network()
    train(again, data, config, tmp_path / "b", compute=compute, on_progress=ignore_progress, resume=True)
    assert same_weights(whole, again)
