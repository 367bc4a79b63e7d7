"""Activation checkpointing: the step of the plain network in less memory, to the last random number."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.config import ComputeConfig, ModelConfig, TrainConfig
from convscope.errors import Interrupted, UsageError
from convscope.models import build_model
from convscope.models.surgery.segments import checkpoint_activations, stage_bytes
from convscope.progress import ignore_progress
from convscope.training.loop import train
from tests.support import same_weights, training_data

NETWORKS = [
    (ModelConfig(name="cnn"), (1, 28, 28)),
    (ModelConfig(name="cnn-small"), (1, 28, 28)),
    (ModelConfig(name="cifar-base"), (3, 32, 32)),
    (ModelConfig(name="cifar-inception"), (3, 32, 32)),
    (ModelConfig(name="cifar-residual"), (3, 32, 32)),
    (ModelConfig(name="auto"), (3, 32, 32)),
    (ModelConfig(name="resnet18"), (3, 32, 32)),
    (ModelConfig(name="mobilenet_v2"), (3, 32, 32)),
    (ModelConfig(name="efficientnet_lite0"), (3, 32, 32)),
    (ModelConfig(name="vgg11_bn"), (3, 32, 32)),
    (ModelConfig(name="densenet121"), (3, 32, 32)),
]


def step(network: nn.Module, forward: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of one step; gradients stay in the network."""
    network.train()
    torch.manual_seed(5)
    logits: Tensor = forward(x)
    F.cross_entropy(logits, torch.arange(len(x)) % 3).backward()
    return logits.detach()


def saved_bytes(forward: nn.Module, x: Tensor) -> int:
    """Return the bytes that a forward pass keeps, parameters apart; counted on the tensors themselves."""
    own = {p.untyped_storage().data_ptr() for p in (*forward.parameters(), *forward.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = forward(x)
    total = sum(kept.values())
    logits.sum().backward()
    return total


@pytest.mark.parametrize(("config", "shape"), NETWORKS, ids=lambda value: getattr(value, "name", None))
def test_a_step_is_that_of_the_plain_network(config: ModelConfig, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    plain = build_model(config, shape, 3)
    ours = copy.deepcopy(plain)
    x = torch.randn(3, *shape)
    forward = checkpoint_activations(ours, shape)
    before = torch.get_rng_state()
    assert torch.equal(step(ours, forward, x), step(plain, plain, x))
    for (name, mine), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        assert other.grad is not None, name
        assert torch.equal(mine.grad, other.grad), name
    for (name, mine), other in zip(ours.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, other), name  # running statistics moved once
    assert not torch.equal(before, torch.get_rng_state())  # the seed was set; what follows a step is compared here:
    after_ours = (step(ours, forward, x), torch.rand(3))[1]
    assert torch.equal(after_ours, (step(plain, plain, x), torch.rand(3))[1])


@pytest.mark.parametrize(("name", "share"), [("resnet18", 0.55), ("vgg11_bn", 0.6), ("mobilenet_v2", 0.4)])
def test_less_is_kept(name: str, share: float) -> None:
    network = build_model(ModelConfig(name=name), (3, 64, 64), 3).train()
    forward = checkpoint_activations(network, (3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    plain = saved_bytes(network, x)
    assert saved_bytes(forward, x) < share * plain
    stages = [part for segment in forward.segments for part in segment.children()]
    predicted = 2 * sum(stage.saved for stage in stage_bytes(stages, (3, 64, 64)))
    assert predicted == pytest.approx(plain - x.nbytes, rel=0.02)


def test_a_stage_that_changes_its_input_begins_no_segment() -> None:
    convolutions = [(nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU(inplace=True)) for i in range(6)]
    network = nn.Sequential(*(part for pair in convolutions for part in pair), nn.Flatten(), nn.Linear(8 * 144, 3))
    plain, x = copy.deepcopy(network), torch.randn(2, 3, 12, 12)
    forward = checkpoint_activations(network, (3, 12, 12))
    assert len(forward.segments) > 1
    assert not any(isinstance(segment[0], nn.ReLU) for segment in forward.segments)
    step(network, forward, x)
    step(plain, plain, x)
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]


def test_reduced_precision_is_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    plain = build_model(ModelConfig(name="cifar-residual"), (3, 16, 16), 3)
    ours, x = copy.deepcopy(plain), torch.randn(4, 3, 16, 16)
    for network, forward in ((plain, plain), (ours, checkpoint_activations(ours, (3, 16, 16)))):
        network.train()
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(forward(x), torch.arange(4) % 3)
        loss.backward()
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]


def conv_network() -> nn.Module:
    torch.manual_seed(0)
    stack = "conv 8 3x3 same; batch-norm; relu; dropout 0.3; conv 8 3x3 same; batch-norm; relu; linear 3"
    return build_model(ModelConfig(name="stack", stack=stack), (1, 8, 8), 3)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_is_the_run_without(tmp_path: Path, accumulate: int) -> None:
    """The whole run, bit for bit, also when it was stopped in between and went on."""
    networks = {}
    for name in ("plain", "ours", "stopped"):
        networks[name] = network = conv_network()
        (tmp_path / name).mkdir()
        config = TrainConfig(epochs=2, batch_size=15, accumulate=accumulate, lr=0.01)
        compute = ComputeConfig(checkpoint_activations=name != "plain")
        answers = iter([False] * 7 + [True])
        data = training_data()
        if name == "stopped":
            with pytest.raises(Interrupted):
                train(
                    network,
                    data,
                    config,
                    tmp_path / name,
                    compute=compute,
                    on_progress=ignore_progress,
                    stop_requested=lambda answers=answers: next(answers, True),  # type: ignore[misc]
                )
            networks[name] = network = conv_network()
        resume = name == "stopped"
        train(network, data, config, tmp_path / name, compute=compute, on_progress=ignore_progress, resume=resume)
    assert same_weights(networks["plain"], networks["ours"])
    assert same_weights(networks["plain"], networks["stopped"])


def test_frozen_modules_stay_out_of_it() -> None:
    network = build_model(ModelConfig(name="resnet18"), (3, 32, 32), 3)
    for parameter in network.conv1.parameters():  # type: ignore[union-attr]
        parameter.requires_grad_(False)
    plain = copy.deepcopy(network)
    x = torch.randn(2, 3, 32, 32)
    step(network, checkpoint_activations(network, (3, 32, 32)), x)
    step(plain, plain, x)
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]


def test_a_network_that_is_no_chain_is_refused_in_words() -> None:
    network = build_model(ModelConfig(name="googlenet"), (3, 64, 64), 3)
    with pytest.raises(UsageError, match=r"GoogLeNet is not known as a chain.*--accumulate"):
        checkpoint_activations(network, (3, 64, 64))


def test_torchs_compiler_is_not_imported() -> None:
    code = """
import sys, torch
from torch import nn
from convscope.models.surgery.segments import checkpoint_activations
convolutions = [part for _ in range(6) for part in (nn.Conv2d(3, 3, 3), nn.Sigmoid())]
forward = checkpoint_activations(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(48, 2)), (3, 16, 16))
assert len(forward.segments) > 1
forward(torch.zeros(2, 3, 16, 16)).sum().backward()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
