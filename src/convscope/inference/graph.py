"""The check of a model file of unknown origin, before ONNX Runtime sees it: it ends, and it reads no other file.

The onnx package would take longer to import than a prediction takes, so the few fields that matter are read here.

Source: onnx.proto of ONNX 1.21, and the encoding of Protocol Buffers.
"""

from collections.abc import Iterator

DOMAINS = (b"", b"ai.onnx")
"""Where the operators come from that torch's exporter writes; others bring loops of their own."""
ENDLESS = (b"Loop", b"Scan", b"SequenceMap")
"""Operators that run a graph any number of times."""
MAX_DEPTH = 20
"""Of graphs within graphs, which `If` has."""

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_ATTRIBUTE, _NODE_OPERATOR, _NODE_DOMAIN = 5, 4, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 6, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14

Field = tuple[int, "int | memoryview"]


def check_graph(content: bytes) -> None:
    """Raise ValueError for an ONNX file with loops, functions, numbers in other files, or foreign operators."""
    for number, value in _fields(memoryview(content)):
        if number == _MODEL_FUNCTIONS:
            raise ValueError("it defines functions of its own")
        if number == _MODEL_GRAPH:
            _check_graph(_message(value), MAX_DEPTH)


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth == 0:
        raise ValueError("its graphs are nested too deeply")
    for number, value in _fields(graph):
        if number == _GRAPH_NODE:
            _check_node(_message(value), depth)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(_message(value))


def _check_node(node: memoryview, depth: int) -> None:
    operator, domain, attributes = b"", b"", []
    for number, value in _fields(node):
        if number == _NODE_OPERATOR:
            operator = bytes(_message(value))
        elif number == _NODE_DOMAIN:
            domain = bytes(_message(value))
        elif number == _NODE_ATTRIBUTE:
            attributes.append(_message(value))
    if operator in ENDLESS or domain not in DOMAINS:
        shown = operator.decode(errors="backslashreplace")
        raise ValueError(f"it has the operator {shown[:40]!r}, which no model file of convscope has")
    if operator in (b"If", b"Constant"):  # no other one of these operators holds graphs or tensors
        for number, value in (field for attribute in attributes for field in _fields(attribute)):
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                _check_graph(_message(value), depth - 1)
            elif number == _ATTRIBUTE_TENSOR:
                _check_tensor(_message(value))


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise ValueError("its numbers are in another file")


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield number and value of the fields of a message; numbers of fixed size, which do not matter here, as 0."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        kind, value = key & 7, 0
        if kind == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
        elif kind == 2:
            length, position = _varint(message, position)
            if length > end - position:
                raise ValueError("it is cut short")
            yield key >> 3, message[position : position + length]
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
            yield key >> 3, 0
        else:
            raise ValueError("it is not an ONNX file")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of variable length and where it ends."""
    value = shift = 0
    while shift < 70 and position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("it is cut short")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is not an ONNX file")
    return value
