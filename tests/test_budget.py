"""Memory predicted: hand counts, identities over the whole table, and the allocator's own figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torchvision
from torch import nn

import convscope
from convscope.cli import main
from convscope.cli.budget import parse_shape
from convscope.config import ComputeConfig, ModelConfig, TrainConfig
from convscope.errors import UsageError
from convscope.memory.kernels import WORKSPACE
from convscope.memory.layers import NotTraceable, parameter_arithmetic
from convscope.memory.predict import predict_memory
from convscope.memory.speed import predict_duration
from convscope.memory.trace import Allocations
from convscope.models import MODELS, build_shapes
from convscope.models.saved import channels_last
from convscope.models.spec import ModelSpec
from convscope.results.memory import Budget
from convscope.run.measured_step import allocator_growth
from convscope.training.optimizers import Optimizer

STACK = "conv 100 3x3 /2 pad 1; conv 200 3x3 /2 pad 1; conv 400 3x3 /2 pad 1"
FLOAT = 4
ORDERS = (torch.channels_last, torch.contiguous_format)


def budget_of(network: nn.Module, shape: tuple[int, int, int], batch_size: int, **train: object) -> Budget:
    compute = ComputeConfig(checkpoint_activations=bool(train.pop("checkpoint_activations", False)))
    config = TrainConfig(**train)  # type: ignore[arg-type]
    return predict_memory(network, shape, batch_size=batch_size, train=config, compute=compute)


def test_the_stack_of_the_course() -> None:
    """2,800 + 180,200 + 720,400 parameters; maps of 6.0, 3.0 and 1.52 MB; 526 MB of them for 50 images."""
    network = channels_last(build_shapes(ModelConfig(name="stack", stack=STACK), (3, 200, 300), None))
    budget = budget_of(network, (3, 200, 300), 50)
    layers = [layer for layer in budget.layers if layer.kind == "Conv2d"]
    assert [layer.num_params for layer in layers] == [2_800, 180_200, 720_400]
    assert [layer.arithmetic for layer in layers] == [
        "(3x3x3 + 1) x 100 = 2,800",
        "(3x3x100 + 1) x 200 = 180,200",
        "(3x3x200 + 1) x 400 = 720,400",
    ]
    assert [layer.output_shape for layer in layers] == [(100, 100, 150), (200, 50, 75), (400, 25, 38)]
    assert [layer.output_bytes // 50 for layer in layers] == [6_000_000, 3_000_000, 1_520_000]
    assert [layer.saved_bytes for layer in layers] == [300_000_000, 150_000_000, 76_000_000]
    memory = budget.memory
    assert (budget.num_params, memory.weights_bytes, memory.gradients_bytes) == (903_400, 3_613_600, 3_613_600)
    assert memory.input_bytes == 36_000_000
    assert memory.optimizer_bytes == 2 * memory.weights_bytes
    assert 526_000_000 < memory.saved_bytes < 526_000_100


def test_what_each_kind_of_layer_leaves_for_the_backward_pass() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # output: the norm needs it
        nn.BatchNorm2d(8),  # mean and standard deviation of each channel, and the output that ReLU overwrites in place
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # int64 places
        nn.Flatten(),  # channels come last up to here, so that flattening copies; the dense layer needs the copy
        nn.Linear(8 * 4 * 4, 5),  # the logits
    )
    budget = budget_of(network, (3, 8, 8), 2)
    saved = {layer.kind: layer.saved_bytes for layer in budget.layers}
    maps, pooled = 2 * 8 * 8 * 8, 2 * 8 * 4 * 4
    assert saved["Conv2d"] == FLOAT * maps
    assert saved["BatchNorm2d"] == FLOAT * (maps + 2 * 8)
    assert saved["ReLU"] == 0
    assert saved["MaxPool2d"] == 8 * pooled
    assert saved["Flatten"] == FLOAT * pooled
    assert saved["Linear"] == FLOAT * 2 * 5


@pytest.mark.parametrize("name", MODELS)
def test_the_columns_add_up(name: str) -> None:
    spec = MODELS[name]
    network = channels_last(build_shapes(ModelConfig(name=name), spec.native_shape, spec.native_classes))
    budget = budget_of(network, spec.native_shape, 8)
    memory = budget.memory
    assert sum(layer.num_params for layer in budget.layers) == budget.num_params
    assert sum(layer.saved_bytes for layer in budget.layers) == memory.saved_bytes
    assert sum(layer.macs for layer in budget.layers) == budget.macs
    assert sum(memory.peak_parts.values()) == memory.training_peak_bytes
    assert memory.weights_bytes == memory.gradients_bytes == FLOAT * budget.num_params
    assert memory.prediction_peak_bytes < memory.inference_peak_bytes < memory.training_peak_bytes
    for layer in budget.layers:
        assert layer.arithmetic == "" or layer.arithmetic.endswith(f"= {layer.num_params:,}")


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"optimizer": "sgd", "momentum": 0.0}, 0),
        ({"optimizer": "sgd"}, 4 * 5 + 4 + 3 * 4 + 3),
        ({"optimizer": "adam"}, 2 * (4 * 5 + 4 + 3 * 4 + 3)),
        ({"optimizer": "adamw"}, 2 * (4 * 5 + 4 + 3 * 4 + 3)),
        ({"optimizer": "muon"}, 4 * 5 + 2 * (4 + 3 * 4 + 3)),  # the last layer and what is no matrix go to Adam
    ],
)
def test_the_optimizer_keeps_what_is_counted(options: dict[str, object], numbers: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    network[1].requires_grad_(False)
    train = TrainConfig(**options)  # type: ignore[arg-type]
    kept = sum(slot.nbytes for slots in Optimizer(network, train).slots.values() for slot in slots)
    assert kept == FLOAT * numbers
    assert predict_memory(network, (6, 1, 1), batch_size=2, train=train).memory.optimizer_bytes == kept


def test_what_is_frozen_keeps_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    whole = budget_of(network, (1, 8, 8), 4)
    network[0].requires_grad_(False)
    frozen = budget_of(network, (1, 8, 8), 4)
    assert frozen.num_trainable == whole.num_trainable - 40
    assert frozen.memory.gradients_bytes == whole.memory.gradients_bytes - FLOAT * 40
    assert {layer.kind: layer.saved_bytes for layer in frozen.layers}["Conv2d"] == 0


def test_accumulated_gradients_are_there_from_the_start() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    once, often = (budget_of(network, (1, 8, 8), 2, accumulate=n).memory for n in (1, 8))
    assert often.training_peak_bytes - once.training_peak_bytes > 0.9 * FLOAT * 512 * 10
    assert often.gradients_bytes == once.gradients_bytes


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 2)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    budget_of(network, (1, 8, 8), 2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(
        module.training or module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )
    assert all(p.grad is None and not p.is_meta for p in network.parameters())


def test_a_layer_that_cannot_take_its_input_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(99, 2))
    with pytest.raises(UsageError, match=r"layer '2' \(Linear\) cannot take .*72"):
        budget_of(network, (1, 8, 8), 2)
    with pytest.raises(UsageError, match=r"layer '0' \(Conv2d\) cannot take an input of 3x8x8"):
        budget_of(network, (3, 8, 8), 2)


class ImageStats(nn.Module):
    """A layer that asks for a number: tensors without content have none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean().item() > 1 else x * 3


def layers(*looking: nn.Module) -> nn.Sequential:
    parts = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *looking, nn.Flatten(), nn.Linear(256, 2)]
    return channels_last(nn.Sequential(*parts))  # type: ignore[return-value]


def test_a_network_that_depends_on_values_is_run() -> None:
    """What is counted in a real step is what is predicted for the same step without a question."""
    network = layers(ImageStats())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found, expected = (budget_of(one, (1, 8, 8), 4) for one in (network, layers(Times())))
    assert (found.computed, expected.computed) == (True, False)
    assert found.memory.training_peak_bytes == pytest.approx(expected.memory.training_peak_bytes, abs=64)
    assert found.memory.saved_bytes == expected.memory.saved_bytes
    assert [layer.output_bytes for layer in found.layers] == [layer.output_bytes for layer in expected.layers]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(NotTraceable):
        budget_of(layers(ImageStats()).to("meta"), (1, 8, 8), 4)


class Times(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


def test_a_network_that_depends_on_values_is_asked_for_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec("looks", lambda shape, classes: layers(ImageStats()), (1, 8, 8), 2)
    monkeypatch.setitem(MODELS, "looks", spec)
    found = convscope.budget("looks", batch_size=8, fit=2**40)
    assert found.computed
    assert found.fit is not None
    assert found.fit.options == ""
    monkeypatch.setattr("sys.argv", ["convscope", "budget", "looks"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "real steps were run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(100, 200, 3), "(3x3x100 + 1) x 200 = 180,200"),
        (nn.Conv2d(3, 8, (1, 5), bias=False), "1x5x3 x 8 = 120"),
        (nn.Conv2d(32, 32, 3, groups=32, bias=False), "3x3x1 x 32 = 288"),
        (nn.Linear(784, 128), "(784 + 1) x 128 = 100,480"),
        (nn.BatchNorm2d(64), "2 x 64 = 128"),
        (nn.ReLU(), ""),
    ],
)
def test_arithmetic(module: nn.Module, expected: str) -> None:
    assert parameter_arithmetic(module) == expected


def calls_of_elementwise() -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each operator with operands in all orders, broadcast and expanded ones among them."""
    last, usual = (torch.ones(2, 3, 4, 5).contiguous(memory_format=order) for order in ORDERS)
    row, one = torch.ones(2, 3, 1, 1), torch.ones(3).expand(2, 3, 4, 5, 3)[..., 0]
    aten = torch.ops.aten
    for x in (last, usual, one, row.expand(2, 3, 4, 5), last[:, 1:]):
        repeated = 0 in x.stride()
        for name in ("relu", "relu_", "sigmoid", "tanh", "silu_", "gelu", "hardtanh", "neg", "clone", "ones_like"):
            if not (repeated and name.endswith("_")):
                yield getattr(aten, name).default, (x,)
        yield aten.mul.Scalar, (x, 2.0)
        for y in (last, usual):
            yield aten.add_.Tensor, (y, x[:, :1])
            for name in ("silu_backward", "sigmoid_backward", "tanh_backward", "gelu_backward", "hardswish_backward"):
                yield getattr(aten, name).default, (x.expand(y.shape) if x.shape[1] == 3 else y, y)
            yield aten.threshold_backward.default, (y, y if repeated or x.shape[1] != 3 else x, 0)  # of what ReLU gave
            yield aten.hardtanh_backward.default, (y, x if x.shape[1] == 3 else y, 0.0, 6.0)
    for x, y in ((last, usual), (usual, last), (last, row), (row, last), (one, last)):
        for operator in (aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor):
            yield operator, (x, y)


def on_meta(operator: Any, arguments: Sequence[Any]) -> Any:  # noqa: ANN401
    """Run an operator as a trace does, and return its results without content."""
    given = [to_meta_tensor(value) if isinstance(value, torch.Tensor) else value for value in arguments]
    with Allocations(()):
        return operator(*given)


def to_meta_tensor(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def test_traced_results_have_the_shapes_and_strides_of_the_cpu() -> None:
    """Elementwise operators, reductions and products, against what the CPU's kernels return."""
    x, matrices = torch.ones(2, 3, 4, 5), (torch.ones(3, 4), torch.ones(4, 5))
    calls = list(calls_of_elementwise())
    for operator in (torch.ops.aten.mean.dim, torch.ops.aten.sum.dim_IntList):
        calls += [(operator, arguments) for arguments in ((x, [2, 3]), (x, [-1, -2], True), (x, [0]), (x, []))]
    calls += [(torch.ops.aten.mm.default, matrices), (torch.ops.aten.addmm.default, (torch.ones(5), *matrices))]
    for operator, arguments in calls:
        found, expected = on_meta(operator, arguments), operator(*arguments)
        assert (found.shape, found.stride()) == (expected.shape, expected.stride()), (operator, arguments)
    assert len(calls) > 100


def grouped_convolutions_backward() -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield calls for which oneDNN fills the channels of a group up, and those for which it need not."""
    last = torch.channels_last
    kernels = ((30, 3, 16, 1), (30, 5, 16, 1), (30, 7, 16, 1), (30, 3, 8, 1), (30, 5, 4, 1), (30, 3, 2, 1))
    for side, kernel, groups, stride in (*kernels, (2, 3, 16, 1), (3, 3, 16, 1), (3, 3, 16, 2), (4, 3, 16, 2)):
        x = torch.rand(4, 16, side, side).contiguous(memory_format=last)
        weight = torch.rand(16, 16 // groups, kernel, kernel).contiguous(memory_format=last)
        how: tuple[Any, ...] = ([stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], groups)
        y = torch.ops.aten.convolution.default(x, weight, None, *how)
        yield torch.ops.aten.convolution_backward.default, (y, x, weight, None, *how, [True, True, False])


@pytest.mark.parametrize("order", ORDERS)
def test_rules_know_all_that_an_operation_allocates(order: torch.memory_format) -> None:
    """Results and what is let go of before it ends, against the allocator's own record."""
    aten = torch.ops.aten
    x = torch.rand(4, 16, 30, 30).contiguous(memory_format=order)
    ones, zeros = torch.ones(16), torch.zeros(16)
    other = x.contiguous(memory_format=next(each for each in ORDERS if each != order))
    pooled, places = aten.max_pool2d_with_indices(x, [2, 2], [2, 2])
    operations = (
        (aten.native_batch_norm.default, (x, ones, zeros, zeros.clone(), ones.clone(), True, 0.1, 1e-5)),
        *(
            (
                aten.native_batch_norm_backward.default,
                (gradient, x, ones, zeros, ones, zeros, ones, training, 1e-5, [wanted, True, True]),
            )
            for gradient in (x, other)
            for training in (True, False)
            for wanted in (True, False)
        ),
        (aten.max_pool2d_with_indices.default, (x, [2, 2], [2, 2])),
        (
            aten.max_pool2d_with_indices_backward.default,
            (pooled, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places),
        ),
        (aten.avg_pool2d.default, (x, [2, 2], [2, 2])),
        *(grouped_convolutions_backward() if order == torch.channels_last else ()),  # the order of all networks
    )
    for operation, arguments in operations:
        measured = allocator_growth(partial(operation, *arguments))
        results = on_meta(operation, arguments)
        tensors = [value for value in (results if isinstance(results, tuple) else (results,)) if value is not None]
        workspace = WORKSPACE[operation](*arguments) if operation in WORKSPACE else 0
        predicted = sum(tensor.nbytes for tensor in tensors) + workspace
        assert predicted == pytest.approx(measured, abs=4096), operation


def test_predicted_and_measured_agree() -> None:
    """The allocator's own figure, from a step in another process."""
    budget = convscope.budget("cnn-small", batch_size=64, measure=True)
    measured = budget.measured
    assert measured is not None
    assert budget.memory.training_peak_bytes == pytest.approx(measured.training_peak_bytes, rel=0.02)
    assert budget.memory.inference_peak_bytes == pytest.approx(measured.inference_peak_bytes, rel=0.02)
    assert measured.baseline_bytes < measured.process_peak_bytes


def test_a_frozen_network_by_name() -> None:
    """The last layer alone learns, and nothing before it is kept."""
    budget = convscope.budget("alexnet", num_classes=10, batch_size=2, frozen=True)
    assert budget.num_trainable == (4096 + 1) * 10
    assert budget.num_params == sum(p.numel() for p in torchvision.models.alexnet(num_classes=10).parameters())
    assert budget.memory.saved_bytes < 10**5


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["convscope", "budget", "mlp", "cnn-small", "--batch", "8", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    mlp, cnn = json.loads(capsys.readouterr().out)["budgets"]
    assert (mlp["num_params"], cnn["num_params"]) == (101_770, 8_490)
    assert {"name", "kind", "output_shape", "num_params", "macs", "output_bytes", "saved_bytes"} <= set(
        mlp["layers"][0]
    )
    assert mlp["memory"]["weights_bytes"] == 4 * 101_770


@pytest.mark.parametrize("text", ["3x200", "axbxc", "0x2x2", "3,2,2"])
def test_an_input_that_is_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="channels x height x width"):
        parse_shape(text)


def test_the_figures_of_the_page_on_memory() -> None:
    """docs/memory.md: what it says of the stack, padded either way, and of the two networks for digits."""
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text()
    padded, same = (
        convscope.budget(stack=stack, input_shape=(3, 200, 300), batch_size=50).memory
        for stack in (STACK, STACK.replace("pad 1", "same"))
    )
    mlp, cnn = (convscope.budget(name, batch_size=64).memory for name in ("mlp", "cnn-small"))
    for words in (
        f"The command says {padded.prediction_peak_bytes / 1e6:.2f} MB",
        f"The peak lies higher, at {padded.training_peak_bytes / 1e6:.0f} MB",
        f"training keeps {same.saved_bytes / 1e6:.0f} MB",
        f"takes {mlp.training_peak_bytes / 1e6:.2f} MB for the first and {cnn.training_peak_bytes / 1e6:.2f} MB",
    ):
        assert words in " ".join(page.split())


def test_the_time_of_a_run() -> None:
    """Steps of 0.1 s on batches of 10: 100 images take 1 s, an epoch of 95 a little less."""
    duration = predict_duration((0.1, 0.09, 0.2), measured_batch=10, batch_size=20, accumulate=2, images=95, epochs=4)
    assert duration.step_seconds == pytest.approx(0.4)
    assert duration.epoch_seconds == pytest.approx(0.95)
    assert duration.run_seconds == pytest.approx(3.8)
    assert duration.steps_an_epoch == 3
    assert duration.low_factor <= 0.9
    assert duration.high_factor >= 2.0


def test_a_batch_that_does_not_fit_is_timed_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convscope.api.budget.FREE_SHARE", 12e6 / psutil.virtual_memory().available)
    budget = convscope.budget("cnn-small", batch_size=256, images=1000, epochs=3)
    assert budget.duration is not None
    assert budget.duration.measured_batch_size == 128
    assert budget.duration.run_seconds == pytest.approx(3 * budget.duration.epoch_seconds)
    monkeypatch.setattr("convscope.api.budget.FREE_SHARE", 0.0)
    estimated = convscope.budget("cnn-small", batch_size=256, images=1000)
    assert estimated.duration is not None
    assert estimated.duration.measured_batch_size is None
    assert estimated.duration.epoch_seconds > 0
