"""The one-line notation: text to layers and back, shapes worked out, errors at their place."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convscope
from convscope.config import ModelConfig
from convscope.errors import UsageError
from convscope.models import build_model, count_parameters
from convscope.models.saved import SavedModel, channels_last, load_model, save_model
from convscope.models.stack.blocks import output_shape
from convscope.models.stack.layers import LAYERS, Layer
from convscope.models.stack.notation import Stack, build_stack, parse_stack, stack_shapes
from tests.support import run_convscope

EVERYTHING = (
    "conv 100 3x3 /2 same; relu; max-pool 2; residual 64; inception 64; se; separable 128 3x3; batch-norm; lrn; "
    "dropout 0.5; flatten; linear 10"
)
THREE = "conv 100 3x3 /2 same; conv 200 3x3 /2 same; conv 400 3x3 /2 same"

EXAMPLES = [kind.example for kind in LAYERS.values()] + [
    "conv 8 1x7 pad 3",
    "conv 8 5x5 full dilation 2",
    "max-pool 3 /2",
    "max-pool 2x3 pad 1",
    "min-pool 2 /1 same",
    "average-pool 3 /3 full",
    "separable 8 3x3 /2 pad 1 dilation 2",
    "global-pool",
    "se",
    "se 4",
    "lrn",
    "dropout 0.00001",
    "residual 16",
]


def canonical(text: str) -> str:
    return str(parse_stack(text))


def test_the_example_of_every_layer_round_trips() -> None:
    assert canonical(EVERYTHING) == EVERYTHING
    for example in EXAMPLES:
        stack = parse_stack(example)
        assert parse_stack(str(stack)) == stack
        if "dilation 1" not in example and example not in ("se 16", "lrn 5"):  # defaults are not written
            assert str(stack) == example


def test_spelling_is_free_where_it_cannot_be_misread() -> None:
    assert canonical(" CONV 8 5 ;relu;\n max-pool 3/2;MAX-POOL 2 / 1;; dropout; linear 10;") == (
        "conv 8 5x5; relu; max-pool 3 /2; max-pool 2 /1; dropout 0.5; linear 10"
    )
    assert canonical("conv 3x3 8 same /2") == "conv 8 3x3 /2 same"


def test_layers_are_plain_frozen_values() -> None:
    stack = parse_stack("conv 8 5x5 pad 2; relu; max-pool 2; dropout 0.25; linear 10")
    expected = (
        Layer("conv", (8, (5, 5), 1, 2, 1)),
        Layer("relu"),
        Layer("max-pool", ((2, 2), None, "valid")),
        Layer("dropout", (0.25,)),
        Layer("linear", (10,)),
    )
    assert stack == Stack(expected)
    assert hash(stack) == hash(Stack(expected))
    with pytest.raises(FrozenInstanceError):
        stack.layers[0].values = (9,)  # type: ignore[attr-defined]


def test_the_stack_of_the_memory_question() -> None:
    stack = parse_stack(THREE)
    network = build_stack(stack, (3, 200, 300))
    assert [count_parameters(layer) for layer in network] == [2_800, 180_200, 720_400]
    assert count_parameters(network) == 903_400
    x, shapes = torch.zeros(1, 3, 200, 300), []
    for layer in network:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(100, 100, 150), (200, 50, 75), (400, 25, 38)] == list(stack_shapes(stack, (3, 200, 300)))


def test_names_can_be_read_and_feature_maps_are_flattened_before_a_dense_layer() -> None:
    network = build_stack(
        parse_stack("conv 4 3x3; max-pool 2; conv 6 3x3; max-pool 2; linear 8; relu; linear 3"), (1, 16, 16)
    )
    assert [name for name, _ in network.named_children()] == [
        "conv1",
        "max_pool1",
        "conv2",
        "max_pool2",
        "flatten1",
        "linear1",
        "relu1",
        "linear2",
    ]
    assert network.linear1.in_features == 6 * 2 * 2
    assert "conv2.weight" in network.state_dict()


def test_a_stack_is_the_network_it_spells_out() -> None:
    text = "conv 10 5x5; max-pool 2; relu; conv 20 5x5; dropout2d 0.5; max-pool 2; relu; linear 10"
    torch.manual_seed(0)
    ours = build_model(ModelConfig(name="stack", stack=text), (1, 28, 28), 10).eval()
    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Conv2d(1, 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.Dropout2d(0.5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 10),
    ).eval()
    torch.manual_seed(0)
    named = build_model(ModelConfig(name="cnn-small"), (1, 28, 28), 10).eval()
    assert list(named.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(named(x), theirs(x))
    assert torch.equal(ours(x), theirs(x))


# ---------------------------------------------------------------- any stack

numbers = st.integers(1, 4)
paddings = st.sampled_from(["", " same", " valid", " full", " pad 1", " pad 0"])


@st.composite
def layer_texts(draw: st.DrawFn) -> str:
    """Return a layer that is written right, with random values."""
    word = draw(st.sampled_from(list(LAYERS)))
    stride = f" /{draw(numbers)}" if draw(st.booleans()) else ""
    match word:
        case "conv" | "separable":
            dilation = f" dilation {draw(numbers)}" if draw(st.booleans()) else ""
            return f"{word} {draw(numbers)} {draw(numbers)}x{draw(numbers)}{stride}{draw(paddings)}{dilation}"
        case "max-pool" | "min-pool" | "average-pool":
            return f"{word} {draw(numbers)}{stride}{draw(paddings)}"
        case "residual":
            return f"{word} {draw(numbers)}{stride}"
        case "inception":
            return f"{word} {draw(st.integers(8, 20))}"
        case "linear" | "se" | "lrn":
            return f"{word} {draw(numbers)}"
        case "dropout" | "dropout2d":
            return f"{word} {draw(st.floats(0, 0.99, allow_subnormal=False))!r}" if draw(st.booleans()) else word
    return word


@settings(deadline=None)
@given(st.lists(layer_texts().filter(lambda text: "e-" not in text), min_size=1, max_size=6), st.integers(1, 12))
def test_any_stack_round_trips_and_has_the_shapes_it_says_or_is_refused_at_a_layer(texts: list[str], side: int) -> None:
    stack = parse_stack("; ".join(texts))
    assert parse_stack(str(stack)) == stack
    try:
        shapes = stack_shapes(stack, (2, side, side + 1))
        network = build_stack(stack, (2, side, side + 1))
    except UsageError as error:
        refusal = str(error)
    else:
        assert output_shape(network, (2, side, side + 1)) == shapes[-1]
        return
    assert marked(refusal) in map(str, stack.layers)


@settings(deadline=None)
@given(st.text(alphabet="abcovnx relu;/0123456789.-é\n", max_size=60))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        stack = parse_stack(text)
    except UsageError as error:
        refusal = str(error)
    else:
        assert parse_stack(str(stack)) == stack
        return
    assert "for example" in refusal or marked(refusal) in text.replace("\n", " ")


@pytest.mark.parametrize(
    "text", [EVERYTHING.replace("max-pool 2", kind) for kind in ("min-pool 3 /2", "average-pool 2")]
)
def test_training_reaches_every_parameter_and_channels_last_changes_nothing(text: str) -> None:
    torch.manual_seed(0)  # with other weights all four units of the squeeze may be silent at once
    network = build_stack(parse_stack(text), (3, 32, 32), 10)
    x = torch.randn(4, 3, 32, 32)
    F.cross_entropy(network(x), torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    network.eval()
    with torch.no_grad():
        plain = network(x)
        last = channels_last(network)(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(last, plain, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- errors


def marked(message: str) -> str:
    """Return the part of the line that the carets stand under."""
    line, marks = message.splitlines()[-2:]
    start = marks.index("^")
    assert set(marks.strip()) == {"^"}
    return line[start : start + marks.count("^")]


@pytest.mark.parametrize(
    ("text", "wrong", "words"),
    [
        ("conv 8 5x5; maxpool 2; linear 10", "maxpool", "Did you mean 'max-pool'"),
        ("conv 8; relu", "conv", "'conv' needs its kernel; it is written like: conv 32 3x3"),
        ("relu; max-pool", "max-pool", "'max-pool' needs its window"),
        ("conv 8 5x5; relu 3", "3", "'relu' does not take '3'"),
        ("conv 8 5x5 3", "3", "does not take '3'"),
        ("conv eight 5x5", "eight", "does not take 'eight'"),
        ("conv 8 5x5 /2 /3", "/3", "gives the stride a second time"),
        ("conv 8 5x5 same; conv 8 5x5 same full", "full", "gives the padding a second time"),
        ("conv 8 5x5 pad", "pad", "followed by a number"),
        ("conv 8 5x5 dilation two", "two", "'two' is not a whole number from 1 to 100,000"),
        ("conv 0 5x5", "0", "'0' is not a whole number"),
        ("conv 8 5x0", "5x0", "'0' is not a whole number"),
        ("conv 8 5x5 /", "/", "'' is not a whole number"),
        ("linear 2.5", "2.5", "'2.5' is not a whole number"),
        ("linear 99999999999999999999", "99999999999999999999", "is not a whole number"),
        ("relu; dropout 1.5", "1.5", "not a share from 0 to 1"),
        ("max-pool 2 max", "max", "does not take 'max'"),
        ("conv 8 3x3; " * 20 + "relo; " + "conv 8 3x3; " * 20, "relo", "Did you mean 'relu'"),
        ("x" * 500, "x" * 40, "unknown layer"),
    ],
)
def test_a_wrong_word_is_pointed_at(text: str, wrong: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        parse_stack(text)
    assert marked(str(caught.value)) == wrong
    assert max(map(len, str(caught.value).splitlines()[-2:])) <= 110


@pytest.mark.parametrize(
    ("text", "wrong", "words"),
    [
        ("conv 8 9x9; conv 9 25x25; linear 10", "conv 9 25x25", "a window of 25 pixels does not fit into 24"),
        ("max-pool 64; linear 10", "max-pool 64", "--image-size"),
        ("linear 10; conv 3 3x3; linear 10", "conv 3 3x3", "works on feature maps"),
        ("inception 4; linear 10", "inception 4", "give it 8 or more"),
        ("max-pool 2 pad 2; linear 10", "max-pool 2 pad 2", "use 1 at most"),
        ("conv 8 9x9; linear 5", "linear 5", "5 values come out and the data have 10 classes; end with 'linear 10'"),
        ("linear 10; relu", "relu", "must end in 'linear 10'; add it after 'relu'"),
        ("conv 8 9x9; flatten", "flatten", "end with 'linear 10'"),
    ],
)
def test_a_layer_that_cannot_be_built_is_pointed_at(text: str, wrong: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        build_stack(parse_stack(text), (3, 32, 32), 10)
    assert marked(str(caught.value)) == wrong


def test_no_layers_are_refused() -> None:
    for text in ("", " ; ;"):
        with pytest.raises(UsageError, match="at least one layer, for example: conv"):
            parse_stack(text)


def test_a_network_may_end_in_global_pooling_of_one_map_a_class() -> None:
    network = build_stack(parse_stack("conv 8 3x3; relu; conv 10 1x1; global-pool; flatten"), (3, 32, 32), 10)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


# ---------------------------------------------------------------- a run


def test_a_stack_is_trained_saved_and_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, run = "conv 4 3x3; relu; max-pool 2; batch-norm; linear 10", tmp_path / "run"
    command = ("train", "digits", "--stack", text, "--per-class", 20, "--epochs", 1, "--no-report", "--out", run)
    code, out, err = run_convscope(capsys, *map(str, command))
    assert code == 0, err
    result = convscope.evaluate(run)
    assert result.model == "stack"
    assert result.num_params == 4 * 9 + 4 + 8 + 4 * 3 * 3 * 10 + 10
    assert f"({result.accuracy.correct} of " in out


def test_a_wrong_stack_leaves_no_run_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stack in ("conv 4 3x3; relo; linear 10", "conv 4 3x3; linear 11"):
        code, _, err = run_convscope(capsys, "train", "digits", "--stack", stack, "--out", tmp_path / "run")
        assert code == 2
        assert "^^^^" in err
        assert not (tmp_path / "run").exists()


def test_model_and_stack_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--model or --stack, not both"):
        convscope.make_config("digits", "mlp", stack="linear 10")
    with pytest.raises(UsageError, match="needs its layers"):
        ModelConfig(name="stack")
    with pytest.raises(UsageError, match="unknown layer"):
        convscope.make_config("digits", stack="linaer 10")


def test_a_stack_survives_saving(tmp_path: Path) -> None:
    network: nn.Module = build_stack(parse_stack("conv 4 3x3 /2 same; se 2; linear 3"), (3, 9, 9), 3).eval()
    text = "conv 4 3x3 /2 same; se 2; linear 3"
    save_model(tmp_path, SavedModel(network, "stack", (3, 9, 9), ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3, stack=text))
    loaded = load_model(tmp_path)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.allclose(loaded.network(x), network(x), atol=1e-6)
    assert loaded.stack == text
