"""Panels as charts: curves and matrices with Bokeh, images as PNG or JPEG. No number is computed here.

Names are not trusted: every text goes through `printable`, and axis labels are PlainText, because Bokeh reads `$$...$$`
in a string as TeX and downloads a typesetter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan, pi
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    NoOverlap,
    PlainText,
    Range1d,
)
from bokeh.models.annotations import Legend, LegendItem
from bokeh.models.renderers import GlyphRenderer
from bokeh.palettes import Blues256
from bokeh.plotting import figure
from numpy.typing import NDArray
from PIL import Image

from convscope.pages.heatmaps import image_uri
from convscope.pages.text import MAX_NAME_LENGTH, UNKNOWN, name_text, percent_text, printable, shorten
from convscope.results.panels import Curves, Intervals, Matrix, Point, Scatter, Table

MAX_WRITTEN_CLASSES = 15
"""With more classes the counts would be too small to read in the cells of a matrix."""
MAX_IMAGE_PX = 160
"""Longest side of an embedded image, about twice its size on the page."""
SHADES = Blues256[::-1][:232]
"""Nearly white to dark blue, without the blues that are nearly black."""
WIDE_PX = 860
"""Maximum width of a matrix, so that it fits most screens."""
Texts = Iterable[tuple[str, Sequence[str]]]
"""Lines of a tooltip: the label, and its text at each point."""
TEXT_SIZE = "12px"
AXIS_NAME_LENGTH, LONG_NAME_LENGTH = 16, 24

INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
LINE_STYLES = (
    ("#1b5e9e", "solid", "circle"),
    ("#b8480f", "dashed", "square"),
    ("#2a7d4f", "dotted", "triangle"),
    ("#7a3f98", "dotdash", "diamond"),
    ("#8a6d00", "dashdot", "inverted_triangle"),
    ("#00718f", "solid", "square_pin"),
    ("#b0306a", "dashed", "hex"),
    ("#555555", "dotted", "star"),
)
"""Colour, dash and marker of each line or point; they differ without colour too."""
LEGEND_PX = 300
"""Maximum width of a legend in one row: a phone's, less the axis."""
LOG_SPAN = 20
"""The x axis is logarithmic if the largest x is more than LOG_SPAN times the smallest."""


def encode_image(image: NDArray[np.uint8]) -> str:
    """Return an image, uint8 [H, W, C], as a data URI."""
    pixels = Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image)
    pixels.thumbnail((MAX_IMAGE_PX, MAX_IMAGE_PX))
    return image_uri(pixels)


# ---------------------------------------------------------------- curves


def draw_curves(curves: Curves) -> figure:
    """Return the chart of some lines; a tooltip shows the values of all lines at the same x."""
    chart = _empty_chart(curves.x_label, curves.y_label, height=320)
    chart.x_range = _padded_range([x for line in curves.lines for x in line.x], least_padding=0.5)
    heights = [y for line in curves.lines for y in (*line.y, *line.low, *line.high) if y is not None]
    chart.y_range = _padded_range(heights, least_padding=0.01, label=curves.y_label)
    chart.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0, mantissas=[1, 2, 5])
    items: list[tuple[str, list[GlyphRenderer[Any]]]] = []
    for i, line in enumerate(curves.lines):
        color, dash, marker = LINE_STYLES[i % len(LINE_STYLES)]
        source = ColumnDataSource({"x": line.x, "y": [nan if y is None else y for y in line.y]})
        if line.low:
            chart.varea(line.x, line.low, line.high, fill_color=color, fill_alpha=0.15)
        stroke = chart.line("x", "y", source=source, line_color=color, line_dash=dash, line_width=2)
        dots = chart.scatter("x", "y", source=source, marker=marker, size=6, color=color)
        items.append((line.name, [stroke, dots]))
    _add_legend(chart, items)
    _add_curves_hover(chart, curves)
    return chart


def curves_table(curves: Curves) -> Table:
    """Return the numbers of the chart as a table for readers who cannot see it: one row per x."""
    values = [dict(zip(line.x, line.y, strict=True)) for line in curves.lines]
    notes = {x: note for line in curves.lines for x, note in zip(line.x, line.notes, strict=False)}
    columns, rows = [curves.x_label, *(line.name for line in curves.lines)], []
    for x in _all_x(curves):
        ys = [of_line.get(x) for of_line in values]
        rows.append([f"{x:g}", *(UNKNOWN if y is None else f"{y:.4f}" for y in ys)])
        if curves.note_label:
            rows[-1].append(notes.get(x, UNKNOWN))
    if curves.note_label:
        columns.append(curves.note_label)
    return Table(f"{curves.title} in numbers", tuple(columns), tuple(map(tuple, rows)))


def _add_curves_hover(chart: figure, curves: Curves) -> None:
    """Add one tooltip for the values of all lines, attached to an invisible line through the highest values."""
    table, xs = curves_table(curves), _all_x(curves)
    values = ((x, y) for line in curves.lines for x, y in zip(line.x, line.y, strict=True) if y is not None)
    tops = dict.fromkeys(xs, nan) | dict(sorted(values))  # the highest y of an x comes last
    source = ColumnDataSource({"x": xs, "y": [tops[x] for x in xs]})
    target: GlyphRenderer[Any] = chart.line("x", "y", source=source, line_alpha=0)
    if len(xs) == 1:  # the mouse cannot hit a line of one point
        target = chart.scatter("x", "y", source=source, size=30, alpha=0)
    texts = zip(map(name_text, table.columns), zip(*table.rows, strict=True), strict=True)
    _add_hover(chart, target, source, texts, mode="vline", line_policy="nearest")


def _all_x(curves: Curves) -> list[float]:
    return sorted({x for line in curves.lines for x in line.x})


def _padded_range(values: Sequence[float], *, least_padding: float, label: str = "") -> Range1d:
    """Return a range a little wider than the values, which starts at zero or above if all values do.

    Args:
        label: of the axis; one in % ends at 100 or below if all values do.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    padding = max(0.06 * (high - low), least_padding)
    start = max(0.0, low - padding) if low >= 0 else low - padding
    return Range1d(start=start, end=min(100.0, high + padding) if "%" in label and high <= 100 else high + padding)


# ---------------------------------------------------------------- points


def draw_scatter(scatter: Scatter) -> figure:
    """Return the chart of points with their intervals; steps join the marked points."""
    points, xs = scatter.points, [point.x for point in scatter.points]
    logarithmic = min(xs) > 0 and max(xs) > LOG_SPAN * min(xs)
    chart = _empty_chart(scatter.x_label, scatter.y_label, height=340, x_axis_type="log" if logarithmic else "linear")
    chart.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    ends = [end for point in points for end in (point.low, point.high)]
    chart.y_range = _padded_range(ends, least_padding=0.05, label=scatter.y_label)
    chart.x_range = (
        Range1d(start=min(xs) / 1.5, end=max(xs) * 1.5)
        if logarithmic
        else _padded_range([0.0, *xs], least_padding=0.05 * max(xs))
    )
    front = sorted((point.x, point.y) for point in points if point.marked)
    steps = chart.step(*zip(*front, strict=True), mode="after", line_color="#888888", line_dash="dotted", line_width=2)
    items: list[tuple[str, list[GlyphRenderer[Any]]]] = [(scatter.mark, [steps])]
    for i, point in enumerate(points):
        color, _, marker = LINE_STYLES[i % len(LINE_STYLES)]
        source = ColumnDataSource({"x": [point.x], "y": [point.y], "low": [point.low], "high": [point.high]})
        bar = chart.segment("x", "low", "x", "high", source=source, line_color=color, line_width=1.5)
        fill = color if point.marked else PAPER
        dot = chart.scatter("x", "y", source=source, marker=marker, size=11, color=color, fill_color=fill, line_width=2)
        texts = [
            ("", [name_text(point.name)]),
            (scatter.y_label, [_point_text(point)]),
            (scatter.x_label, [f"{point.x:.4g}"]),
            ("", [scatter.mark]),
        ]
        _add_hover(chart, dot, source, texts if point.marked else texts[:-1])
        items.append((point.name, [bar, dot]))
    _add_legend(chart, items)
    return chart


def scatter_table(scatter: Scatter) -> Table:
    """Return the numbers of the chart as a table, the cheapest point first."""
    rows = [
        (point.name, f"{point.x:.4g}", _point_text(point), "yes" if point.marked else "no")
        for point in sorted(scatter.points, key=lambda point: (point.x, -point.y))
    ]
    return Table(
        f"{scatter.title} in numbers", ("Network", scatter.x_label, scatter.y_label, scatter.mark), tuple(rows)
    )


def _point_text(point: Point) -> str:
    return f"{point.y:.2f} ({point.low:.2f} to {point.high:.2f})"


# ---------------------------------------------------------------- intervals


def draw_intervals(intervals: Intervals) -> figure:
    """Return the chart of named values from top to bottom: a mark with its interval, and measurements as pale dots."""
    rows = range(len(intervals.names))
    chart = _empty_chart(intervals.value_label, "", height=90 + 34 * len(rows))
    points = [(x, y) for y, values in enumerate(intervals.points) for x in values]
    values = [*intervals.low, *intervals.high, *(x for x, _ in points)]
    padding = 0.02 * (max(values) - min(values)) or 0.01
    chart.x_range = _padded_range(values, least_padding=padding, label=intervals.value_label)
    chart.y_range = Range1d(start=len(rows) - 0.5, end=-0.5)
    chart.ygrid.visible = False
    chart.scatter([x for x, _ in points], [y for _, y in points], size=7, color=LINE_STYLES[0][0], alpha=0.3)
    chart.segment(intervals.low, list(rows), intervals.high, list(rows), line_width=2, line_color=INK)
    source = ColumnDataSource({"x": intervals.values, "y": list(rows)})
    marks = chart.scatter("x", "y", source=source, marker="diamond", size=13, color=INK)
    _name_ticks(chart.yaxis, intervals.names, LONG_NAME_LENGTH)
    table = intervals_table(intervals)
    _add_hover(chart, marks, source, zip(table.columns, zip(*table.rows, strict=True), strict=True))
    return chart


def intervals_table(intervals: Intervals) -> Table:
    """Return the numbers of the chart as a table, the measurements last."""
    measured = zip(intervals.names, intervals.values, intervals.low, intervals.high, intervals.points, strict=True)
    rows = (
        (name, f"{value:.4g}", f"{low:.4g} to {high:.4g}", ", ".join(f"{point:.4g}" for point in points))
        for name, value, low, high, points in measured
    )
    columns = ("what", intervals.value_label, "interval", "measured")
    return Table(f"{intervals.title} in numbers", columns, tuple(rows))


# ---------------------------------------------------------------- matrix


def draw_matrix(matrix: Matrix) -> figure:
    """Return the heat map of some counts. A cell is darker the larger its fraction of the row.

    The shade grows with the square root of the fraction, so that one mistake among hundreds is still visible.
    """
    num_rows, num_columns = matrix.values.shape
    chart = _empty_chart(matrix.column_label, matrix.row_label, height=600, sizing_mode="scale_width")
    chart.x_range = Range1d(start=-0.5, end=num_columns - 0.5)
    chart.y_range = Range1d(start=num_rows - 0.5, end=-0.5)  # the first row on top
    chart.grid.visible = False
    source, texts = _matrix_source(matrix)
    border = FAINT if _is_written(matrix) else None
    cells = chart.rect("x", "y", 1, 1, source=source, fill_color="color", line_color=border)
    if _is_written(matrix):
        counts = chart.text("x", "y", "count", source=source, text_color="ink", text_font_size=TEXT_SIZE)
        counts.glyph.text_align, counts.glyph.text_baseline = "center", "middle"
    for axis, names in ((chart.xaxis, matrix.column_names), (chart.yaxis, matrix.row_names)):
        _name_ticks(axis, names, AXIS_NAME_LENGTH)
        axis.major_label_policy = NoOverlap(min_distance=2)
    if max(map(_text_px, matrix.column_names)) > _least_cell_px(matrix):
        chart.xaxis.major_label_orientation = pi / 2
    _add_hover(chart, cells, source, texts, point_policy="follow_mouse")
    return chart


def matrix_width_px(matrix: Matrix) -> tuple[int, int]:
    """Return the minimum and the maximum width of the matrix; on a phone it scrolls in its frame."""
    columns = matrix.values.shape[1]
    least = 50 + max(map(_text_px, matrix.row_names)) + columns * _least_cell_px(matrix)
    return least, max(least, min(WIDE_PX, least + 120 + 30 * columns))


def matrix_table(matrix: Matrix) -> Table | None:
    """Return the counts of a matrix as a table; None if it is too large to read."""
    if not _is_written(matrix):
        return None
    rows = zip(matrix.row_names, matrix.values.tolist(), strict=True)
    return Table(
        f"{matrix.title} in numbers",
        (f"{matrix.row_label} \\ {matrix.column_label}", *matrix.column_names),
        tuple((name, *map(str, counts)) for name, counts in rows),
    )


def _matrix_source(matrix: Matrix) -> tuple[ColumnDataSource, Texts]:
    """Return one row per cell, and its texts; of a large matrix only the nonzero cells, to keep the page small."""
    counts = matrix.values
    y, x = np.indices(counts.shape).reshape(2, -1) if _is_written(matrix) else np.nonzero(counts)
    fractions = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[y, x]
    texts = [str(count) for count in counts[y, x]]
    shades = np.sqrt(fractions)
    colors = [SHADES[round((len(SHADES) - 1) * float(shade))] for shade in shades]
    inks = [PAPER if shade > 0.6 else INK for shade in shades]
    return ColumnDataSource({"x": x, "y": y, "color": colors, "count": texts, "ink": inks}), [
        (matrix.row_label, [name_text(matrix.row_names[i]) for i in y]),
        (matrix.column_label, [name_text(matrix.column_names[j]) for j in x]),
        ("images", texts),
        ("fraction of row", [percent_text(float(fraction)) for fraction in fractions]),
    ]


def _is_written(matrix: Matrix) -> bool:
    return bool(max(matrix.values.shape) <= MAX_WRITTEN_CLASSES)


def _least_cell_px(matrix: Matrix) -> int:
    return 8 + _text_px(str(matrix.values.max())) if _is_written(matrix) else 5


def _text_px(text: str) -> int:
    """Return the approximate width of a label at TEXT_SIZE."""
    return 7 * min(AXIS_NAME_LENGTH, len(printable(text)))


# ---------------------------------------------------------------- all charts


def _empty_chart(x_label: str, y_label: str, **options: Any) -> figure:  # noqa: ANN401
    settings: dict[str, Any] = {"width": 600, "sizing_mode": "stretch_width", "tools": "", "toolbar_location": None}
    chart = figure(**settings | options)
    chart.outline_line_color = FAINT
    chart.grid.grid_line_color = "#eeeeee"
    for axis, label in ((chart.xaxis, x_label), (chart.yaxis, y_label)):
        axis.axis_label = PlainText(text=printable(label))
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = TEXT_SIZE
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = "#888888"
        axis.minor_tick_line_color = None
    return chart


def _name_ticks(axis: Any, names: Sequence[str], length: int) -> None:  # noqa: ANN401
    """Show names, shortened to this length, in place of the numbers 0, 1, ... of an axis."""
    labels = [PlainText(text=shorten(printable(name), length)) for name in names]
    axis.ticker = FixedTicker(ticks=list(range(len(names))))
    axis.major_label_overrides = dict(enumerate(labels))
    axis.major_tick_line_color = None


def _add_legend(chart: figure, items: Sequence[tuple[str, list[GlyphRenderer[Any]]]]) -> None:
    """Add the legend above the chart: in one row if all names fit on a phone, otherwise in a column."""
    names = [shorten(printable(name), MAX_NAME_LENGTH) for name, _ in items]
    in_a_row = sum(40 + 7 * len(name) for name in names) <= LEGEND_PX
    legend = Legend(
        items=[
            LegendItem(label={"value": name}, renderers=drawn) for name, (_, drawn) in zip(names, items, strict=True)
        ],
        orientation="horizontal" if in_a_row else "vertical",
        border_line_color=None,
        label_text_font_size=TEXT_SIZE,
    )
    if not in_a_row:
        chart.height = (chart.height or 0) + 20 * (len(items) - 1)
    chart.add_layout(legend, "above")


def _add_hover(
    chart: figure,
    target: GlyphRenderer[Any],
    source: ColumnDataSource,
    texts: Texts,
    **options: Any,  # noqa: ANN401
) -> None:
    """Add a tooltip to each point of a glyph, with one line per label; the source of the glyph gets the texts.

    Labels are part of the data, so that nothing in them is read as a field or a format; BokehJS would also draw its own
    labels too pale to read on white.
    """
    columns = {
        f"hover{i}": [f"{printable(label)}: {printable(text)}" if label else printable(text) for text in column]
        for i, (label, column) in enumerate(texts)
    }
    source.data.update(columns)
    tooltips = [("", f"@{column}") for column in columns]
    chart.add_tools(HoverTool(renderers=[target], tooltips=tooltips, **options))
