"""The panels of a page as plain values, without any drawing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageGrid:
    """Images with captions; a caption may have several lines.

    Args:
        images: uint8 [H, W, C] each, C 1 or 3; sizes may differ. An empty array stands for a missing image.
        wrong: marks images as wrong predictions; empty: nothing is marked.
    """

    title: str
    images: tuple[NDArray[np.uint8], ...]
    captions: tuple[str, ...]
    wrong: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Line:
    """One named line of a chart.

    Args:
        y: None is a gap.
        notes: further text for each point, in the tooltip and the table.
        low, high: bounds of each y; empty: unknown.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    notes: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis. Axis labels include the unit; `note_label` is the heading of the lines' notes."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    note_label: str = ""


@dataclass(frozen=True)
class Point:
    """One named point of a chart with the interval of its y; marked points are joined by a line."""

    name: str
    x: float
    y: float
    low: float
    high: float
    marked: bool


@dataclass(frozen=True)
class Scatter:
    """Points on two axes. Axis labels include the unit; `mark` names the marked points."""

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    mark: str


@dataclass(frozen=True)
class Intervals:
    """Named values, each with its interval and the measurements (points) it summarizes; the label includes the unit."""

    title: str
    value_label: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    points: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Matrix:
    """Counts with named rows and columns; values are int64 [rows, columns]."""

    title: str
    row_label: str
    column_label: str
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    values: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Rows of text under column headings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps or filters of layers, drawn as one image per layer.

    Args:
        maps: one entry per image: float32 [M, H, W], M maps on one scale, or [M, H, W, 3], colours in 0..1. NaN is a
            gap. Sizes may differ.
        captions: one per entry; may have several lines.
    """

    title: str
    maps: tuple[NDArray[np.float32], ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Heat:
    """Heat maps over an image: how much each place contributes.

    Args:
        image: uint8 [H, W, C], C 1 or 3.
        heats: float32 [h, w] each, stretched over the whole image; negative values count against.
        captions: one per heat map; may have several lines.
        full_colour: absolute value from which on the colour is full; None: the largest of each heat map.
        scale: what the ends of the colour bar mean; may have several lines; "": no bar.
    """

    title: str
    image: NDArray[np.uint8]
    heats: tuple[NDArray[np.float32], ...]
    captions: tuple[str, ...]
    full_colour: float | None = None
    scale: str = ""


Item = TypeVar("Item")


def table_of(title: str, items: Iterable[Item], columns: Mapping[str, Callable[[Item], str]]) -> Table:
    """Return a table with one row per item; a column is its heading and the function that returns the text."""
    return Table(title, tuple(columns), tuple(tuple(text(item) for text in columns.values()) for item in items))


Panel = ImageGrid | Curves | Intervals | Scatter | Matrix | Table | FeatureMaps | Heat
