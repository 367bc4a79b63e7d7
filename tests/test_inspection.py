"""Inspections: they show what the network computed, agree with known answers, and do not change the network."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import convscope
from convscope.config import ModelConfig
from convscope.data.batches import Preprocessing
from convscope.data.dataset import ImageSet
from convscope.data.duplicates import find_duplicates
from convscope.data.splits import Splits
from convscope.errors import DataError, UsageError
from convscope.evaluation.metrics import make_predictions, most_confused_cells, suspected_label_errors
from convscope.evaluation.records import shown_order
from convscope.inspection import INSPECTIONS, Evidence, Subject
from convscope.inspection.activating import channel_activations, inspect_activating
from convscope.inspection.confusion import inspect_confused_pairs, inspect_confusion
from convscope.inspection.duplicates import inspect_duplicates
from convscope.inspection.feature_maps import inspect_feature_maps, layer_calls
from convscope.inspection.filters import inspect_filters
from convscope.inspection.grad_cam import grad_cam
from convscope.inspection.hooks import find_call
from convscope.inspection.occlusion import occlusion
from convscope.inspection.statistics import inspect_statistics
from convscope.models import build_model
from convscope.models.stack.blocks import ResidualBlock
from convscope.pages.page import render_page
from convscope.pages.section import Section
from convscope.results.panels import FeatureMaps, Heat, ImageGrid, Matrix, Panel, Table
from convscope.results.run import accuracy_of
from convscope.storage.files import read_csv, read_json
from tests.support import HOSTILE, Page
from tests.support import run_convscope as command_line

SIDE = 24
NEED_FEATURE_MAPS = {"grad-cam"}
"""Inspections that report that a network of vectors has nothing to show."""


class Branches(nn.Module):
    """Two concatenated branches, one activation called twice, and in-place layers, as in networks of the zoo."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.left = nn.Conv2d(channels, 4, 3, padding=1)
        self.right = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.BatchNorm2d(2))
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Conv2d(6, 5, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([self.relu(self.left(x)), self.right(x)], dim=1)
        logits: Tensor = self.head(self.drop(self.relu(self.mix(maps)).mean(dim=(2, 3))))
        return logits


def build_residual() -> nn.Module:
    blocks = ResidualBlock(3, 8), ResidualBlock(8, 8, stride=2)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "branches": (3, Branches),
    "gray": (1, lambda: Branches(1)),
    "mlp": (1, lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 6), nn.ReLU(), nn.Linear(6, 4))),
    "residual": (3, build_residual),
}


CLASSES = ("<b>one</b>", HOSTILE[2], "three", HOSTILE[3])


def make_evidence(channels: int) -> Evidence:
    """Return 60 test, 20 training and 20 validation images; the first 5 test images are also training images."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (100, SIDE, SIDE, channels), dtype=np.uint8)
    pixels[20:25] = pixels[:5]
    pixels[26] = pixels[25]
    labels = np.arange(100) % 4
    logits = np.random.default_rng(6).normal(0, 1, (100, 4)).astype(np.float32)
    logits[np.arange(100), labels] += 2
    logits[30] = [9, 0, 0, 0]  # its label is 2
    ids = tuple(f"{HOSTILE[0]}/{i}" for i in range(100))
    images = ImageSet("made", pixels, labels, CLASSES, ids, ("",) * 100)
    splits = Splits(np.arange(20), np.arange(80, 100), np.arange(20, 80), find_duplicates(images.images).groups)
    return Evidence(images, splits, "test", logits[20:80], splits.validation, logits[80:])


def make_subject(name: str = "branches", **changes: Any) -> Subject:  # noqa: ANN401
    channels, build = NETWORKS[name]
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    preprocessing = Preprocessing((0.5,) * channels, (0.25,) * channels)
    subject = Subject(build(), preprocessing, CLASSES, image, torch.device("cpu"), evidence=make_evidence(channels))
    return replace(subject, **changes)


def constructed(network: nn.Module, image: np.ndarray) -> Subject:
    """Return a subject whose input is the image in units of 0..1."""
    return Subject(network, Preprocessing((0.0,), (1.0,)), ("dark", "bright"), image, torch.device("cpu"))


# ---------------------------------------------------------------- every inspection


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", INSPECTIONS)
def test_inspections_do_not_change_the_network(name: str, network: str) -> None:
    subject = make_subject(network)
    modules = list(subject.network.modules())
    for index, module in enumerate(modules):
        module.training = index % 3 != 1
        if index % 2:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    subject.network(subject.input()).sum().backward()
    parameters = list(subject.network.parameters())
    first = parameters[0]
    first.grad = torch.full_like(first, 7.0) if first.requires_grad else None

    def state() -> list[object]:
        return [
            [module.training for module in modules],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules],
            [(p.requires_grad, p.device, None if p.grad is None else p.grad.tolist()) for p in parameters],
            {key: value.tolist() for key, value in subject.network.state_dict().items()},
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),
            random.getstate(),
            subject.image.tolist(),
            torch.is_grad_enabled(),
        ]  # fmt: skip

    before = state()
    nothing_to_show = network == "mlp" and name in NEED_FEATURE_MAPS
    with pytest.raises(UsageError, match="no feature maps") if nothing_to_show else nullcontext():
        INSPECTIONS[name].inspect(subject)
    assert state() == before


@pytest.mark.parametrize("name", INSPECTIONS)
def test_panels_hold_finite_numbers_and_a_caption_each(name: str) -> None:
    subject = make_subject()
    panels = INSPECTIONS[name].inspect(subject)
    assert panels
    assert INSPECTIONS[name].intro.count(". ") == 0  # one sentence
    for panel in panels:
        check_panel(panel)
    html = render_page({name: Section("t", "i.", panels)}, title="t", headline="", origin="o").decode()
    page = Page()
    page.feed(html)
    assert all(image["alt"] for image in page.of("img"))
    assert "\u202e" not in html
    assert "b" not in {tag for tag, _ in page.elements}


def check_panel(panel: Panel) -> None:
    if isinstance(panel, FeatureMaps):
        assert len(panel.maps) == len(panel.captions)
        for values in panel.maps:
            assert values.dtype == np.float32
            assert values.ndim == 3 or (
                values.ndim == 4 and values.shape[3] == 3 and 0 <= values.min() <= values.max() <= 1
            )
            assert np.isfinite(values).any()
    elif isinstance(panel, Heat):
        assert len(panel.heats) == len(panel.captions)
        assert all(heat.ndim == 2 and np.isfinite(heat).all() for heat in panel.heats)
    elif isinstance(panel, Table):
        assert all(len(row) == len(panel.columns) for row in panel.rows)
    elif isinstance(panel, ImageGrid):
        assert len(panel.images) == len(panel.captions)
        assert all(image.dtype == np.uint8 for image in panel.images)


# ---------------------------------------------------------------- feature maps and filters


def test_feature_maps_are_what_a_hook_on_the_module_sees() -> None:
    subject = make_subject()
    seen: dict[str, list[np.ndarray]] = {}
    network = subject.network.eval()
    for name, module in network.named_modules():
        seen[name] = []
        module.register_forward_hook(lambda _, __, output, name=name: seen[name].append(output.detach().numpy().copy()))
    with torch.no_grad():
        network(subject.input())
    calls = {call.name: call.output.numpy() for call in layer_calls(subject)}
    assert list(calls) == [
        "left", "relu", "right.0", "right.1", "mix", "relu (call 2)", "head",
    ]  # fmt: skip
    for name, output in calls.items():
        module, _, number = name.partition(" (call ")
        (expected,) = seen[module][int(number.rstrip(")") or 1) - 1 :][:1]
        assert np.array_equal(output, expected), name
    (panel,) = inspect_feature_maps(subject)
    assert isinstance(panel, FeatureMaps)
    assert np.array_equal(panel.maps[0], calls["left"][0])
    assert panel.captions[0].startswith(f"layer left\nConv2d: 4 feature maps, {SIDE} × {SIDE} each")
    assert np.array_equal(panel.maps[-1][0, 0], calls["head"][0])
    assert (calls["left"] < 0).any()  # as before the in-place ReLU
    (one,) = inspect_feature_maps(replace(subject, layer="right"))
    assert isinstance(one, FeatureMaps)
    assert np.array_equal(one.maps[0], calls["right.1"][0])


def test_a_block_that_adds_is_recorded_and_one_that_passes_on_is_not() -> None:
    calls = layer_calls(make_subject("residual"))
    kinds = [call.kind for call in calls]
    assert "ResidualBlock" in kinds
    assert "Sequential" not in kinds
    assert len({call.name for call in calls}) == len(calls)
    with pytest.raises(UsageError, match="unknown layer 'nowhere'"):
        find_call(calls, "nowhere")


def test_filters_are_the_weights() -> None:
    subject = make_subject()
    first, deeper = inspect_filters(subject)
    assert isinstance(first, FeatureMaps)
    assert isinstance(deeper, FeatureMaps)
    weight = subject.network.left.weight.detach().numpy()
    assert np.allclose((first.maps[0] - 0.5) * 2 * np.abs(weight).max(), weight.transpose(0, 2, 3, 1), atol=1e-6)
    assert np.array_equal(deeper.maps[0], subject.network.mix.weight.detach().numpy().reshape(30, 3, 3))
    mlp = make_subject("mlp")
    (dense,) = inspect_filters(mlp)
    assert isinstance(dense, FeatureMaps)
    assert np.array_equal(dense.maps[0].reshape(6, -1), mlp.network[1].weight.detach().numpy())


# ---------------------------------------------------------------- Grad-CAM and occlusion


class BrightSpot(nn.Module):
    """Predicts "bright" from the mean of a blurred copy: only the bright places of the image support it."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 2, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.blur.weight[0], self.blur.weight[1] = 1 / 9, -1 / 9
            self.blur.bias.copy_(torch.tensor([0.0, 1.0]))
            self.head.weight.copy_(torch.tensor([[0.0, 3.0], [200.0, -1.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.act(self.blur(x))).flatten(1))
        return logits


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("place", [(2, 3), (14, 10), (18, 18)])
def test_grad_cam_and_occlusion_find_the_object(place: tuple[int, int], frozen: bool) -> None:
    top, left = place
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    image[top : top + 5, left : left + 5] = 255
    subject = constructed(BrightSpot().requires_grad_(not frozen), image)
    assert subject.predicted == 1
    on_object = np.zeros((SIDE, SIDE), bool)
    on_object[max(0, top - 1) : top + 6, max(0, left - 1) : left + 6] = True  # the blur reaches one pixel farther
    layer, (heat,) = grad_cam(subject, (1,))
    assert layer == "act"
    assert heat[~on_object].sum() < 0.01 * heat.sum()
    assert heat[top + 1 : top + 4, left + 1 : left + 4].min() == pytest.approx(float(heat.max()))
    drop = occlusion(subject, 1, patch=3, step=1, batch_size=50)
    reach = np.zeros((SIDE, SIDE), bool)
    reach[max(0, top - 2) : top + 7, max(0, left - 2) : left + 7] = True
    assert np.abs(drop[~reach]).max() < 1e-6
    assert np.unravel_index(drop.argmax(), drop.shape) == (top + 2, left + 2)


class ChannelsLast(nn.Module):
    """A convolution, then a layer on the channels: as a 1x1 convolution, or on the last axis as in Swin."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.mix: nn.Module = nn.Linear(5, 7) if last else nn.Conv2d(5, 7, 1)
        self.act = nn.ReLU()
        self.head = nn.Linear(7, 4)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        maps = self.act(self.mix(maps.permute(0, 2, 3, 1) if self.last else maps))
        logits: Tensor = self.head(maps.mean(dim=(1, 2) if self.last else (2, 3)))
        return logits


class FourAxes(nn.Module):
    """Outputs with four axes that are no places: attention, blocks of tokens, heads in the batch, an unknown layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.tokens, self.attention, self.blocks = nn.Linear(8, 8), nn.Linear(3, 3), nn.Linear(8, 8)
        self.heads, self.unknown, self.head = nn.Conv2d(4, 4, 1), nn.GELU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patches(x)
        tokens = self.tokens(maps.flatten(2).transpose(1, 2))
        n = tokens.shape[1]
        self.attention(torch.zeros(1, n, n, 3))
        self.blocks(tokens.reshape(1, 4, n // 4, 8))
        self.heads(maps.reshape(2, 4, *maps.shape[2:]))
        self.unknown(torch.zeros(1, 5, 5, 6))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def test_four_axes_are_not_always_places() -> None:
    subject = make_subject(network=FourAxes())
    calls = layer_calls(subject)
    assert [call.name for call in calls if call.is_feature_maps] == ["patches"]
    assert [call.name for call in calls if call.is_vector] == ["head"]
    for layer in ("attention", "blocks", "heads", "unknown"):
        with pytest.raises(UsageError, match="has no feature maps, which Grad-CAM needs"):
            grad_cam(replace(subject, layer=layer), (0,))
    (panel,) = inspect_feature_maps(subject)
    assert panel.title == "The image in 2 layers, from first to last; without 5 layers of tokens, which are not images"


def test_feature_maps_with_channels_last_are_the_same() -> None:
    first, last = ChannelsLast(last=False), ChannelsLast(last=True)
    state = first.state_dict()
    last.load_state_dict(state | {"mix.weight": state["mix.weight"][:, :, 0, 0]})
    subjects = [make_subject(network=network) for network in (first, last)]
    (layer, heats), (also, others) = (grad_cam(subject, (0, 3)) for subject in subjects)
    assert layer == also == "act"
    assert heats[0].shape == (SIDE - 2, SIDE - 2)
    assert np.allclose(heats, others, atol=1e-6)
    shown = [inspect_feature_maps(subject)[0] for subject in subjects]
    assert isinstance(shown[0], FeatureMaps)
    assert isinstance(shown[1], FeatureMaps)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(shown[0].maps, shown[1].maps, strict=True))
    assert shown[1].captions[2].startswith(f"layer act\nReLU: 7 feature maps, {SIDE - 2} × {SIDE - 2} each")
    evidence = make_evidence(3)
    activations = [
        channel_activations(subject, find_call(layer_calls(subject), "act"), evidence.indices) for subject in subjects
    ]
    assert activations[0][0].shape == (60, 7)
    assert np.allclose(*activations, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "maps"),
    [("swin_t", True), ("timm/swin_tiny_patch4_window7_224", True), ("timm/vit_tiny_patch16_224", False)],
)
def test_transformers_show_their_feature_maps_or_report_that_they_have_none(name: str, maps: bool) -> None:
    side = 224 if name.startswith("timm/") else 64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(ModelConfig(name=name), (3, side, side), 4).requires_grad_(False)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    subject = Subject(network, Preprocessing((0.5,) * 3, (0.5,) * 3), CLASSES, image, torch.device("cpu"))
    if maps:
        _, (heat,) = grad_cam(subject, (subject.predicted,))
        assert heat.shape == (side // 32, side // 32)
    else:
        with pytest.raises(UsageError, match="works on tokens"):
            grad_cam(subject, (0,))
    (panel,) = inspect_feature_maps(subject)
    assert isinstance(panel, FeatureMaps)
    assert ("layers of tokens" in panel.title) == name.startswith("timm/")
    for values, caption in zip(panel.maps, panel.captions, strict=True):
        assert " feature maps, " not in caption or f"{values.shape[1]} × {values.shape[2]} each" in caption
        assert " feature maps, " not in caption or values.shape[1] == values.shape[2]
    check_panel(inspect_statistics(subject)[0])


@pytest.mark.parametrize(("name", "layer"), [("branches", "right.0"), ("gray", "mix"), ("residual", None)])
def test_grad_cam_and_occlusion_equal_captums(name: str, layer: str | None) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed: `pip install captum`")
    subject = make_subject(name, layer=layer)
    network = subject.network.eval()
    found, heats = grad_cam(subject, (0, 2))
    reference = attr.LayerGradCam(network, network.get_submodule(found))
    for label, heat in zip((0, 2), heats, strict=True):
        expected = reference.attribute(subject.input(), target=label, relu_attributions=True)[0, 0].detach().numpy()
        assert np.allclose(heat, expected, atol=1e-5 * max(1e-3, float(expected.max())))
    channels = subject.image.shape[2]

    def probabilities(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x).softmax(dim=1)

    for patch, step in ((6, 3), (5, 5), (7, 4)):
        reference = attr.Occlusion(probabilities).attribute(
            subject.input(), (channels, patch, patch), strides=(channels, step, step), target=1, baselines=0
        )
        ours = occlusion(subject, 1, patch=patch, step=step, batch_size=7)
        assert np.allclose(ours, reference[0, 0].numpy(), atol=1e-6), (patch, step)


# ---------------------------------------------------------------- layers in numbers and channels


@pytest.mark.parametrize("name", ["branches", "residual"])
def test_gradients_are_those_of_backward(name: str) -> None:
    subject = make_subject(name, evidence=None)
    (table,) = inspect_statistics(subject)
    assert isinstance(table, Table)
    rows = {row[0]: row for row in table.rows}
    network = subject.network.eval()
    head = next(n for n, m in reversed(list(network.named_modules())) if isinstance(m, nn.Linear))
    logits = network(subject.input())
    logits.retain_grad()
    nn.functional.cross_entropy(logits, torch.tensor([subject.predicted])).backward()
    assert rows[head][6] == f"{float(logits.grad.square().mean().sqrt()):.3g}"
    assert rows[head][3] == f"{float(logits.detach().mean()):.3g}"
    assert rows[head][4] == f"{float(logits.detach().std(unbiased=False)):.3g}"
    assert all(row[6] != "–" for row in table.rows)


def test_zeros_are_counted_after_relu() -> None:
    subject = make_subject(evidence=None)
    (table,) = inspect_statistics(subject)
    assert isinstance(table, Table)
    maps = subject.network.left(subject.input())
    zeros = {row[0]: row[5] for row in table.rows}
    assert zeros["relu"] == f"{100 * float((maps <= 0).float().mean()):.1f}\N{NO-BREAK SPACE}%"
    assert zeros["left"] == "0.0\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize("layer", ["mix", "relu (call 2)", "head", None])
def test_activating_images_are_those_with_the_largest_value(layer: str | None) -> None:
    subject = make_subject(layer=layer, channel=2)
    evidence = subject.evidence
    assert evidence is not None
    (grid,) = inspect_activating(subject)
    assert isinstance(grid, ImageGrid)
    call = find_call(layer_calls(subject), layer or "relu (call 2)")
    network, seen = subject.network.eval(), {}
    network.get_submodule(call.name.partition(" (")[0]).register_forward_hook(
        lambda _, __, output: seen.update(last=output.clone())
    )
    largest, mean = [], []
    for index in evidence.indices:
        with torch.no_grad():
            network(replace(subject, image=evidence.images.images[index]).input())
        largest.append(float(seen["last"][0, 2].max()))
        mean.append(float(seen["last"][0, 2].mean()))
    found = [values[:, 2] for values in channel_activations(subject, call, evidence.indices)]
    assert found[0] == pytest.approx(largest, abs=1e-5)
    assert found[1] == pytest.approx(mean, abs=1e-5)
    best = sorted(range(len(found[0])), key=lambda k: (-found[0][k], -found[1][k]))[:10]
    shown = [evidence.images.images[i] for i in evidence.indices[best]]
    assert all(np.array_equal(a, b) for a, b in zip(grid.images, shown, strict=True))
    with pytest.raises(UsageError, match="channels 0 to"):
        inspect_activating(replace(subject, channel=99))


# ---------------------------------------------------------------- the data


def test_confused_images_belong_to_their_cells() -> None:
    subject = make_subject()
    evidence = subject.evidence
    assert evidence is not None
    matrix, *cells = inspect_confusion(subject)
    assert isinstance(matrix, Matrix)
    labels, predicted = evidence.predictions.labels, evidence.logits.argmax(axis=1)
    expected = np.array([[((labels == i) & (predicted == j)).sum() for j in range(4)] for i in range(4)])
    assert np.array_equal(matrix.values, expected)
    largest = sorted((expected[i, j] for i in range(4) for j in range(4) if i != j), reverse=True)
    assert [expected[i, j] for i, j in most_confused_cells(expected, 20)] == [n for n in largest if n]
    for cell, (i, j) in zip(cells, most_confused_cells(expected, 6), strict=True):
        assert isinstance(cell, ImageGrid)
        assert len(cell.images) == min(10, expected[i, j])
        images = [evidence.images.images[k].tobytes() for k in evidence.indices[(labels == i) & (predicted == j)]]
        assert {image.tobytes() for image in cell.images} <= set(images)
    (pairs,) = inspect_confused_pairs(subject)
    assert isinstance(pairs, Table)
    both = {frozenset((i, j)): expected[i, j] + expected[j, i] for i in range(4) for j in range(i)}
    assert [int(row[2]) + int(row[3]) for row in pairs.rows] == sorted((n for n in both.values() if n), reverse=True)


def test_planted_label_errors_are_found_worst_first() -> None:
    rng = np.random.default_rng(3)
    true = np.arange(400) % 4
    labels = true.copy()
    planted = rng.choice(400, 20, replace=False)
    labels[planted] = (true[planted] + 1) % 4
    logits = rng.normal(0, 0.5, (400, 4)).astype(np.float32)
    logits[np.arange(400), true] += rng.uniform(3, 6, 400)
    predictions = make_predictions(
        logits=logits, labels=labels, ids=tuple(map(str, range(400))), class_names=("a", "b", "c", "d")
    )
    suspected = suspected_label_errors(predictions)
    assert {i for i, _ in suspected[:15]} <= set(planted.tolist())
    assert len({i for i, _ in suspected} & set(planted.tolist())) >= 18
    assert all(likelier == true[i] for i, likelier in suspected if i in planted)
    p = predictions.probabilities.astype(np.float64)
    thresholds = [p[labels == k, k].mean() for k in range(4)]
    by_hand = {
        i for i in range(400)
        if (likely := [k for k in range(4) if p[i, k] >= thresholds[k]])
        and max(likely, key=lambda k: p[i, k]) != labels[i]
    }  # fmt: skip
    assert {i for i, _ in suspected} == by_hand


def test_accuracy_without_duplicates() -> None:
    subject = make_subject()
    evidence = subject.evidence
    assert evidence is not None
    (table,) = inspect_duplicates(subject)
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == ["60", "59", "55", "54"]
    correct = evidence.logits.argmax(axis=1) == evidence.predictions.labels
    unseen = accuracy_of(correct=int(correct[5:].sum()), n=55)
    assert table.rows[2][2] == f"{100 * unseen.value:.2f}\N{NO-BREAK SPACE}%"


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    convscope.train("digits", epochs=2, out=out, report=False)
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "<i>a photo&amp;.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def test_any_image_can_be_inspected(run: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command_line(capsys, "inspect", run, "--image", photo, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["page"] == str(run / "inspection.html")
    assert found["sections"] == {name: None for name, entry in INSPECTIONS.items() if entry.needs == "image"}
    assert found["topk"][0] == {"label": found["label"], "probability": found["probability"]}
    html = (run / "inspection.html").read_text("utf-8")
    assert "<i>" not in html
    assert "&lt;i&gt;a photo&amp;amp;" in html
    layer = found["layers"][0]["name"]
    page = photo.parent / "page.html"
    code, out, _ = command_line(capsys, "inspect", run, "--image", photo, "--layer", layer, "--out", page)
    assert code == 0
    assert out.split()[-1] == str(page)
    assert f"All feature maps of layer {layer}" in page.read_text("utf-8")


def test_a_run_is_inspected_with_its_data(run: Path, tmp_path: Path) -> None:
    found = convscope.inspect(run, out=tmp_path / "page.html")
    rows = read_csv(run / "predictions.csv")
    shown = rows[shown_order(len(rows), 0)[0]]
    assert (found.image, found.label) == (shown["image"], shown["predicted"])
    assert found.probability == pytest.approx(float(shown["p_pred"]), rel=1e-4)
    assert list(found.sections) == list(INSPECTIONS)
    assert [reason for name, reason in found.sections.items() if reason and name != "labels"] == []
    page = Page()
    page.feed((tmp_path / "page.html").read_text("utf-8"))
    recorded = read_json(run / "calibration.json")
    figures = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
    assert figures["Loss (mean cross-entropy, nats), as trained"] == f"{recorded['as_trained']['loss']:.4f}"
    assert sum(int(c) for row in page.table("actual \\ predicted") for c in row[1:]) == len(rows)
    assert (tmp_path / "page.html").stat().st_size < 4e6


def test_errors_say_what_cannot_be_inspected(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg: not an image"):
        convscope.inspect(run, image=broken)
    with pytest.raises(DataError, match="not there any more"):
        convscope.inspect(run, image=tmp_path / "nothing.png")
    with pytest.raises(UsageError, match="unknown layer 'conv9'"):
        convscope.inspect(run, layer="conv9")
    with pytest.raises(UsageError, match="with --image"):
        convscope.inspect("efficientnet_lite0")
    with pytest.raises(UsageError, match="neither a run folder nor a network with published weights"):
        convscope.inspect("lenet5", image=broken)


@pytest.mark.parametrize("name", ["vgg16", "inception_v3", "resnet18", "timm/efficientnet_lite0", "densenet121"])
def test_networks_of_the_zoo(name: str) -> None:
    side = 128 if name == "inception_v3" else 64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(ModelConfig(name=name), (3, side, side), 4).requires_grad_(False)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    names = ("a", "b", "c", "d")
    subject = Subject(network, Preprocessing((0.5,) * 3, (0.5,) * 3), names, image, torch.device("cpu"))
    layer, _ = grad_cam(subject, (subject.predicted,))
    expected = {
        "vgg16": "features.29", "inception_v3": "Mixed_7c", "resnet18": "layer4.1.relu (call 2)",
        "timm/efficientnet_lite0": "bn2.act", "densenet121": "features.norm5",
    }  # fmt: skip
    assert layer == expected[name]
    (maps,) = inspect_feature_maps(subject)
    assert isinstance(maps, FeatureMaps)
    assert len(maps.maps) <= 60
    first, deeper = inspect_filters(subject)
    check_panel(first)
    check_panel(deeper)
    assert first.maps[0].shape[3] == 3


@pytest.mark.parametrize("width", [1280, 390])
def test_browser_shows_the_page_whole(browser: Any, run: Path, photo: Path, width: int) -> None:  # noqa: ANN401
    found = convscope.inspect(run, image=photo)
    page = browser.new_page(viewport={"width": width, "height": 800})
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(Path(found.page).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Array.from(document.images).every(i => i.alt && i.complete && i.naturalWidth > 0)")
    assert page.locator("figcaption").count() == page.locator("img").count() > 10
    assert problems == []
    assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
    page.close()
