"""Dense layers as convolutions: equal at the original size, and at every place of a larger image."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from convscope.config import ModelConfig
from convscope.errors import UsageError
from convscope.models import MODELS, build_model, count_parameters
from convscope.models.surgery.convert import to_convolutional
from convscope.models.zoo.weights import EMBEDDED

ROOT = Path(__file__).parents[1]


def build(name: str, shape: tuple[int, int, int], num_classes: int = 7) -> nn.Module:
    """Return a network in evaluation mode whose norms have something to do."""
    torch.manual_seed(0)
    network = build_model(ModelConfig(name=name), shape, num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Relative to the largest value, as random networks give logits of any size."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.native_shape[1] <= 64])
def test_logits_are_equal_at_the_original_size_and_a_map_comes_from_a_larger_one(name: str) -> None:
    channels, height, width = shape = MODELS[name].native_shape
    network = build(name, shape)
    converted = to_convolutional(network, shape)
    assert not any(isinstance(module, nn.Linear) for module in converted.modules())
    assert count_parameters(converted) == count_parameters(network)
    with torch.no_grad():
        x = torch.randn(2, *shape)
        scores = converted(x)
        assert scores.shape == (2, 7, 1, 1)
        assert largest_difference(scores.flatten(1), network(x)) < 1e-4
        scores = converted(torch.randn(1, channels, 2 * height, 2 * width + 8))
        assert scores.shape[:2] == (1, 7)
        assert scores.shape[2] > 1
        assert scores.shape[3] >= scores.shape[2]


@pytest.mark.parametrize("name", ["alexnet", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_torchvisions_alexnet_and_vgg16(name: str) -> None:
    shape = (3, 224, 224)
    network = build(name, shape)
    converted = to_convolutional(network, shape)
    kinds = {type(module) for module in converted}
    assert not kinds & {nn.Linear, nn.AdaptiveAvgPool2d, nn.Flatten}
    dense = {module.out_channels: module.kernel_size for module in converted if isinstance(module, nn.Conv2d)}
    assert dense[7] == (1, 1)
    with torch.no_grad():
        x = torch.rand(1, *shape)
        assert largest_difference(converted(x).flatten(1), network(x)) < 1e-4
        assert converted(torch.rand(1, 3, 256, 288)).shape == (1, 7, 2, 3)


@pytest.mark.parametrize(("name", "stride"), [("cnn-small", 4), ("cnn-dropout", 4)])
def test_without_padding_each_score_is_that_of_its_window_cut_out(name: str, stride: int) -> None:
    """The network itself, run on every window alone, is the independent computation."""
    side = 28
    network = build(name, (1, side, side))
    image = torch.randn(1, 1, side + 3 * stride, side + 5 * stride)
    with torch.no_grad():
        scores = to_convolutional(network, (1, side, side))(image)[0]
        assert scores.shape == (7, 4, 6)
        for row in range(4):
            for column in range(6):
                top, left = row * stride, column * stride
                window = image[:, :, top : top + side, left : left + side]
                assert torch.allclose(scores[:, row, column], network(window)[0], atol=1e-5)


@pytest.mark.parametrize("pooled", [1, 2, 4])
def test_adaptive_pooling_keeps_the_windows_it_had(pooled: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(3 * pooled**2, 5)
    ).eval()
    image = torch.randn(1, 2, 14, 14)
    with torch.no_grad():
        scores = to_convolutional(network, (2, 10, 10))(image)[0]
        stride = 1 if pooled == 1 else 8 // pooled
        for row in range(scores.shape[1]):
            top = row * stride
            expected = network(image[:, :, top : top + 10, top : top + 10])[0]
            assert torch.allclose(scores[:, row, row], expected, atol=1e-5)
        assert scores.shape[1] == 4 // stride + 1


@pytest.mark.parametrize("name", [EMBEDDED, "resnet18"])
def test_global_pooling_slides(name: str) -> None:
    network = build(name, (3, 64, 64))
    converted = to_convolutional(network, (3, 64, 64))
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        assert largest_difference(converted(x).flatten(1), network(x)) < 1e-4
        assert converted(torch.randn(1, 3, 128, 160)).shape == (1, 7, 3, 4)


def test_dense_layers_after_the_first_may_have_norms() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(2 * 6 * 5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )
    network(torch.randn(50, 2, 6, 5))  # moves the running statistics
    converted = to_convolutional(network.eval(), (2, 6, 5))
    x = torch.randn(4, 2, 6, 5)
    assert torch.allclose(converted(x).flatten(1), network(x), atol=1e-5)
    assert [tuple(m.kernel_size) for m in converted if isinstance(m, nn.Conv2d)] == [(6, 5), (1, 1)]


def test_the_network_is_left_as_it_was_and_shares_nothing() -> None:
    network = build("cnn", (1, 28, 28)).train()
    network[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    converted = to_convolutional(network, (1, 28, 28))
    for parameter in converted.parameters():
        parameter.data.zero_()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in converted.modules())


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 2)), (1, 8, 8), "from 8x8 to 3x3"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2)), (1, 8, 8), "another scale for every pixel"),
        (nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8), "columns of a feature map"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Softmax(dim=-1)), (1, 8, 8), "something else"),
    ],
)
def test_what_has_no_convolutional_form_is_refused_in_words(
    network: nn.Module, shape: tuple[int, int, int], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        to_convolutional(network.eval(), shape)


def test_a_network_that_is_no_chain_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="GoogLeNet is not a chain of layers"):
        to_convolutional(build("googlenet", (3, 64, 64)), (3, 64, 64))
    with pytest.raises(UsageError, match=r"from 2x2 to 6x6.*--image-size"):
        to_convolutional(build("alexnet", (3, 96, 96)), (3, 96, 96))


def test_the_documents_code_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/dense-to-convolution.md").read_text(), flags=re.DOTALL)
    exec(compile(block, "dense-to-convolution.md", "exec"), {})  # the document is ours


def test_the_example_draws_its_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "score_map.py"))["main"]
    main(tmp_path / "map.png", epochs=1)
    assert "(92, 208) -> (10, 17, 46)" in capsys.readouterr().out
    with Image.open(tmp_path / "map.png") as drawn, Image.open(ROOT / "docs/images/score-map.png") as shown:
        assert drawn.size == shown.size
