"""Networks written in one line: "conv 32 3x3 same; relu; max-pool 2; linear 10".

Layers stand between semicolons, each a word and what it takes; `layers.py` has them all. Text, `Stack` and text again
are equivalent, and an error marks the word in the line.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn, get_args

from torch import nn

from convscope.errors import UsageError, unknown_name
from convscope.models.spec import InputShape
from convscope.models.stack.layers import LAYERS, REQUIRED, Layer, Shape
from convscope.models.stack.windows import NamedPadding

MAX_NUMBER = 100_000
"""Larger numbers of channels, pixels or features are refused as typing errors."""
BARE_NUMBERS = ("maps", "features", "size", "reduction", "rate", "kernel", "window")
"""What a number alone can give: the first of them that the layer takes and that is not given yet."""
SHOWN_BEFORE, SHOWN_WORD, SHOWN_AFTER = 40, 40, 20
"""Characters before, of and after a wrong word that an error shows."""
EXAMPLE = "conv 32 3x3 same; relu; max-pool 2; linear 10"


@dataclass(frozen=True)
class Stack:
    """Layers one after another; `str` gives them in the one-line notation."""

    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.layers))


@dataclass(frozen=True)
class _Word:
    """A word of a stack and where it stands in the text."""

    text: str
    start: int


def parse_stack(text: str) -> Stack:
    """Return the layers that a line of text describes.

    Raises:
        UsageError: a word is not valid; the message shows the line with that word marked.

    Example:
        >>> str(parse_stack("conv 8 5x5;relu ;  max-pool 3/2"))
        'conv 8 5x5; relu; max-pool 3 /2'
    """
    text = re.sub(r"\s", " ", text)
    layers = [_parse_layer(text, words) for words in _words(text)]
    if not layers:
        raise UsageError(f"a stack needs at least one layer, for example: {EXAMPLE}")
    return Stack(tuple(layers))


def stack_shapes(stack: Stack, input_shape: InputShape) -> tuple[Shape, ...]:
    """Return the shape after each layer for images of this shape, without building anything.

    Raises:
        UsageError: a window does not fit into its feature map, or a layer needs feature maps after they were flattened.
    """
    shapes: list[Shape] = []
    shape: Shape = input_shape
    for index, layer in enumerate(stack.layers):
        if layer.kind.needs_maps and len(shape) != 3:
            _refuse_layer(
                stack, index, f"{layer.word!r} works on feature maps, and a layer before it has flattened them"
            )
        try:
            shape = layer.output_shape(shape)
        except UsageError as error:
            maps = "x".join(map(str, shape))
            remedy = "use a larger --image-size, a smaller window, less pooling, or 'same'"
            _refuse_layer(
                stack, index, f"{error}; the feature maps here are {maps} (channels x height x width); {remedy}"
            )
        shapes.append(shape)
    return tuple(shapes)


def build_stack(stack: Stack, input_shape: InputShape, num_classes: int | None = None) -> nn.Sequential:
    """Return the network with layers named `conv1`, `relu1`, `conv2`, ...; feature maps are flattened before `linear`.

    Args:
        num_classes: K, when the network is to be trained: it must then end in K values. None takes any stack.

    Raises:
        UsageError: the layers do not fit the images or one another, or the last one the number of classes.
    """
    shapes = stack_shapes(stack, input_shape)
    if num_classes is not None:
        _check_logits(stack, shapes[-1], num_classes)
    network, counts = nn.Sequential(), Counter[str]()

    def add(layer: Layer, shape: Shape) -> None:
        counts[layer.word] += 1
        network.add_module(f"{layer.word.replace('-', '_')}{counts[layer.word]}", layer.build(shape))

    for index, (layer, shape) in enumerate(zip(stack.layers, (input_shape, *shapes), strict=False)):
        if layer.kind.takes_vector and len(shape) == 3:
            add(Layer("flatten"), shape)
            shape = (prod(shape),)
        try:
            add(layer, shape)
        except UsageError as error:
            _refuse_layer(stack, index, str(error))
    return network


def _check_logits(stack: Stack, shape: Shape, num_classes: int) -> None:
    """Refuse a network for K classes that does not end in K free values."""
    last = stack.layers[-1]
    if last.word not in ("linear", "flatten"):
        message = f"a network for {num_classes} classes must end in 'linear {num_classes}'; add it after {last.word!r}"
    elif shape != (num_classes,):
        values = prod(shape)
        message = f"{values} values come out and the data have {num_classes} classes; end with 'linear {num_classes}'"
    else:
        return
    _refuse_layer(stack, len(stack.layers) - 1, message)


def _words(text: str) -> Iterator[list[_Word]]:
    """Give the words of each layer; a slash begins one, also within `3x3/2`."""
    for piece in re.finditer(r"[^;]+", text):
        found = re.finditer(r"/ *[^\s/]*|[^\s/]+", piece.group())
        words = [_Word(word.group().lower(), piece.start() + word.start()) for word in found]
        if words:
            yield words


def _parse_layer(text: str, words: list[_Word]) -> Layer:
    name, rest = words[0], iter(words[1:])
    if name.text not in LAYERS:
        _refuse(str(unknown_name("layer", name.text, LAYERS)), text, name)
    kind, values = LAYERS[name.text], dict[str, Any]()
    written_like = f"it is written like: {kind.example}"
    for word in rest:
        bare = next((key for key in kind.words if key in BARE_NUMBERS and key not in values), None)
        key, value = _parse_word(text, word, rest, bare)
        if key == "kernel" and "window" in kind.words:
            key = "window"
        if key is None or key not in kind.words:
            _refuse(f"{name.text!r} does not take {word.text!r}; {written_like}", text, word)
        if key in values:
            _refuse(f"{word.text!r} gives the {key} a second time", text, word)
        values[key] = value
    for key, default in kind.words.items():
        if values.setdefault(key, default) is REQUIRED:
            _refuse(f"{name.text!r} needs its {key}; {written_like}", text, name)
    return Layer(name.text, tuple(values[key] for key in kind.words))


def _parse_word(text: str, word: _Word, rest: Iterator[_Word], bare: str | None) -> tuple[str | None, object]:
    """Return what a word gives, and its value; `pad` and `dilation` take the next word with them.

    Args:
        bare: what a number alone stands for; None when all are given. What is returned is None where nothing takes it.
    """
    if word.text in get_args(NamedPadding):
        return "padding", word.text
    if word.text in ("average", "max"):
        return "kind", word.text
    if word.text in ("pad", "dilation"):
        number = next(rest, word)
        if number is word:
            _refuse(f"{word.text!r} is followed by a number of pixels, as in '{word.text} 2'", text, word)
        value = _whole(text, number, number.text, least=0 if word.text == "pad" else 1)
        return ("padding" if word.text == "pad" else "dilation"), value
    if word.text.startswith("/"):
        return "stride", _whole(text, word, word.text[1:].strip())
    if sides := re.fullmatch(r"([\d.]+)x([\d.]+)", word.text):
        return "kernel", tuple(_whole(text, word, side) for side in sides.groups())
    if bare is None or not re.fullmatch(r"[\d.]+", word.text):
        return None, None
    if bare == "rate":
        return bare, _rate(text, word)
    value = _whole(text, word, word.text)
    return bare, (value, value) if bare in ("kernel", "window") else value


def _whole(text: str, word: _Word, digits: str, least: int = 1) -> int:
    if not re.fullmatch("[0-9]{1,9}", digits) or not least <= int(digits) <= MAX_NUMBER:
        _refuse(f"{digits!r} is not a whole number from {least} to {MAX_NUMBER:,}", text, word)
    return int(digits)


def _rate(text: str, word: _Word) -> float:
    if not re.fullmatch(r"0|0?\.[0-9]+", word.text):
        _refuse(f"{word.text!r} is not a share from 0 to 1 (1 excluded), as in 'dropout 0.5'", text, word)
    return float(word.text)


def _refuse_layer(stack: Stack, index: int, message: str) -> NoReturn:
    start = sum(len(f"{layer}; ") for layer in stack.layers[:index])
    _refuse(message, str(stack), _Word(str(stack.layers[index]), start))


def _refuse(message: str, text: str, word: _Word) -> NoReturn:
    """Raise the error, with the text around the word and a mark under it."""
    length = min(len(word.text), SHOWN_WORD)
    begin, end = max(0, word.start - SHOWN_BEFORE), word.start + length + SHOWN_AFTER
    before, after = "..." if begin else "", "..." if end < len(text) else ""
    mark = " " * (len(before) + word.start - begin) + "^" * length
    raise UsageError(f"{message}\n  {before}{text[begin:end]}{after}\n  {mark}")
