"""1x1 convolutions with a stride, for which oneDNN's own way writes past its workspace."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import convscope
from convscope.config import TrainConfig
from convscope.errors import TrainingError, describe_exit
from convscope.memory.macs import count_macs
from convscope.memory.predict import predict_memory
from convscope.models.saved import channels_last
from convscope.models.surgery.segments import checkpoint_activations
from convscope.models.surgery.subsampled import subsample_before_convolution
from convscope.torch_internals import multiplies_bfloat16

GRADIENTS = """
import torch
from itertools import product
from torch import nn
from convscope.models.surgery.subsampled import subsample_before_convolution
torch.set_num_threads(1)
torch.manual_seed(0)
formats, kinds = (torch.contiguous_format, torch.channels_last), {kinds}
for channels, stride, (height, width), order in product((1, 2, 8, 15, 17), (2, 3), ((48, 60), (57, 64)), formats):
    for kind, groups in product(kinds, {{1, channels}}):
        layer = nn.Conv2d(channels, 2 * channels, 1, stride, groups=groups).to(kind, memory_format=order)
        x = torch.randn(2, channels, height, width).to(kind, memory_format=formats[1]).requires_grad_()
        y = subsample_before_convolution(layer)(x)
        gradient = torch.randn_like(y)
        y.backward(gradient)
        split = lambda values, size: values.double().unflatten(1, (groups, size))
        taken = split(x.detach()[:, :, ::stride, ::stride], channels // groups)
        weight, slope = layer.weight.detach().double()[:, :, 0, 0].unflatten(0, (groups, -1)), split(gradient, -1)
        wanted = torch.einsum("goc,bgchw->bgohw", weight, taken).flatten(1, 2) + layer.bias.double().view(-1, 1, 1)
        by_hand = torch.einsum("bgohw,bgchw->goc", slope, taken).flatten(0, 1)
        wanted_x = torch.zeros_like(x, dtype=torch.double)
        wanted_x[:, :, ::stride, ::stride] = torch.einsum("goc,bgohw->bgchw", weight, slope).flatten(1, 2)
        pairs = (y, wanted), (layer.weight.grad[:, :, 0, 0], by_hand), (x.grad, wanted_x)
        for found, expected in (*pairs, (layer.bias.grad, gradient.double().sum((0, 2, 3)))):
            error = float((found.double() - expected).abs().max() / expected.abs().max())
            assert error < (0.02 if kind == torch.bfloat16 else 1e-5), (channels, stride, height, kind, groups, error)
"""
PLAIN = """
import torch
torch.set_num_threads(1)
for channels in (8, 3):
    x = torch.randn(2, channels, 512, 512).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = torch.nn.Conv2d(channels, 16, 1, 2).to(memory_format=torch.channels_last)
    for _ in range(3):
        layer(x).sum().backward()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_numbers_are_right_and_the_process_lives() -> None:
    kinds = "(torch.float32, torch.bfloat16)" if multiplies_bfloat16() else "(torch.float32,)"
    done = run(GRADIENTS.format(kinds=kinds))
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"


def test_plain_torch_still_needs_it() -> None:
    """Fails on AVX-512 when torch no longer does, so that models/surgery/subsampled.py is deleted."""
    done = run(PLAIN)
    if done.returncode == 0 and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("these convolutions were computed, on a processor without AVX-512")
    assert done.returncode < 0, "oneDNN computes these convolutions without dying: models/surgery/subsampled.py can go"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 1, (2, 3)), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 20, 1, 2, bias=False))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2))


def test_nothing_else_of_a_network_changes() -> None:
    plain, safe = network(), channels_last(network())
    assert [type(layer) is type(other) for layer, other in zip(plain, safe, strict=True)].count(False) == 2
    assert {n: t.shape for n, t in safe.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    x = torch.randn(2, 3, 49, 64)
    seen = []
    safe[0].register_forward_hook(lambda _, __, output: seen.append(output.shape))
    with torch.no_grad():
        expected = plain.eval()(x)
        for other in (safe.eval(), copy.deepcopy(safe), checkpoint_activations(safe, (3, 49, 64)).eval()):
            torch.testing.assert_close(other(x), expected)
        torch.testing.assert_close(safe[0](x[0]), plain[0](x[0]))
    assert (2, 8, 25, 22) in seen
    assert count_macs(safe, (3, 49, 64)) == count_macs(plain, (3, 49, 64))
    rows = [
        predict_memory(each, (3, 49, 64), batch_size=4, train=TrainConfig(batch_size=4)).layers
        for each in (plain, safe)
    ]
    costs = [[(row.name, row.kind, row.output_shape, row.num_params, row.macs) for row in one] for one in rows]
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 4, 1, 2),
        nn.Conv2d(16, 4, 1, 2),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 4, 3, 2),
        nn.Conv2d(3, 4, 1, 2, 1),
    ],
)
def test_other_convolutions_stay(layer: nn.Conv2d) -> None:
    assert type(subsample_before_convolution(nn.Sequential(layer))[0]) is nn.Conv2d


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_process_that_dies_names_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho something else >&2\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(TrainingError, match=r"^the process of the measured step was killed by SIGSEGV; try"):
        convscope.budget("mlp", measure=True)
    assert describe_exit(1, "Traceback\nValueError: no\n") == "ended with exit code 1: ValueError: no"


def test_convolutions_in_three_dimensions_keep_their_order() -> None:
    """timm's lambda layers have them."""
    flat, deep = channels_last(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3))).children()
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert deep.weight.is_contiguous()
