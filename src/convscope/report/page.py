"""The page: sections are computed, their panels drawn, and all of it put into one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from bokeh.embed import components
from bokeh.model import Model
from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined, Template, UndefinedError
from markupsafe import Markup

from convscope.errors import RunError
from convscope.report import charts, colours
from convscope.report.section import RecordedRun, Section, load_recorded_run
from convscope.report.sections import SECTIONS
from convscope.report.text import UNKNOWN, accuracy_text, printable, time_text
from convscope.results import Curves, Heat, ImageGrid, Intervals, Maps, Panel, Scatter, Table
from convscope.runs import write_bytes

COLUMN_PX = 480
"""Width of one of the two columns of panels on a screen for which the page was set."""
PHONE_PX = 358
"""Width of a panel on a phone of 390 px: a wider matrix scrolls in its frame, and is said to."""
LONG_TABLE_ROWS, SCREEN_TABLE_ROWS = 20, 35
"""A table longer than the first stands beside several others; one longer than the second scrolls in its frame."""
WIDE_TABLE_COLUMNS = 6
"""A table with more stands across both columns of panels; so does one of whole sentences, with only one."""
_QUANTITY = r"[-+]?[\d,]+(\.\d+)?(e[-+]\d+)?(\s(%|h|min|s|ms|bytes|[KMG]iB))?"
_NUMBER = re.compile(rf"(< )?{_QUANTITY}(( to)? {_QUANTITY})*|–")
"""One number, with its unit or without; a range of two; hours, minutes and seconds."""


def build_report(run: Path) -> Path:
    """Write RUN/report.html from what the run has recorded so far and return its path.

    Raises:
        RunError: the folder holds no run, a file in it is broken, or the report cannot be written.
    """
    try:
        recorded = load_recorded_run(run)
        sections = {name: compute(recorded) for name, compute in SECTIONS.items()}
        content = render_page(_heading(recorded), sections)
    except (LookupError, TypeError, ValueError, AttributeError, BadZipFile, UndefinedError) as error:
        raise RunError(
            f"{run} holds no run that this version can report ({type(error).__name__}: {error}); "
            "report it with the version named in its run.json, or train again"
        ) from error
    path = run / "report.html"
    write_bytes(path, content)
    return path


@dataclass(frozen=True)
class Heading:
    """What stands at the head of a page: its title, the figure that matters most or "", and where it comes from."""

    title: str
    headline: str
    origin: str


def _heading(run: RecordedRun) -> Heading:
    facts = run.facts
    return Heading(
        title=f"{facts['model']['name']} on {facts['data']['name']}",
        headline=f"Accuracy on the test part: {accuracy_text(run.results['accuracy'])}" if run.results else "",
        origin=f"Run {run.name}, started {time_text(facts['created'])}, convscope {facts['convscope']}",
    )


def render_page(heading: Heading, sections: Mapping[str, Section]) -> bytes:
    """Return an HTML file with these sections, by the name that a link to them carries."""
    drawing = _Drawing({})
    shown = [
        {"name": name, "section": section, "panels": [drawing.draw(panel) for panel in section.panels]}
        for name, section in sections.items()
    ]
    scripts = []
    places: dict[str, str] = {}
    if drawing.figures:
        code, divisions = components(drawing.figures, wrap_script=False)
        scripts = [_library(), _inline(code)]
        places = dict(divisions)
    return (
        _template()
        .render(
            heading=heading,
            sections=shown,
            places={name: Markup(division) for name, division in places.items()},
            scripts=[Markup(script) for script in scripts],
            script_sources=" ".join(map(_content_hash, scripts)) or "'none'",
            style=Markup(files("convscope.report").joinpath("page.css").read_text("utf-8")),
        )
        .encode()
    )


@dataclass(frozen=True)
class _Drawing:
    """Turns panels into what the template needs and gathers the charts among them by the name of their place."""

    figures: dict[str, Model]

    def draw(self, panel: Panel) -> dict[str, Any]:
        if isinstance(panel, ImageGrid):
            return {"kind": "pictures", "title": panel.title, "pictures": _pictures(panel)}
        if isinstance(panel, Maps | Heat):
            many = isinstance(panel, Maps) and len(panel.maps) == 1 and len(panel.maps[0]) > colours.MANY
            size = "large whole" if many else "large"
            return {"kind": "pictures", "size": size, "title": panel.title, "pictures": _large_pictures(panel)}
        if isinstance(panel, Table):
            return {"kind": "table", "size": _table_size(panel), **_table(panel)}
        if isinstance(panel, Curves):
            place, numbers = self._place(charts.draw_curves(panel)), _table(charts.curves_table(panel))
            return {"kind": "curves", "title": panel.title, "place": place, "numbers": numbers}
        if isinstance(panel, Scatter):
            place, numbers = self._place(charts.draw_scatter(panel)), _table(charts.scatter_table(panel))
            return {"kind": "curves", "title": panel.title, "place": place, "numbers": numbers}
        if isinstance(panel, Intervals):
            place, numbers = self._place(charts.draw_intervals(panel)), _table(charts.intervals_table(panel))
            return {"kind": "curves", "title": panel.title, "place": place, "numbers": numbers}
        place, table = self._place(charts.draw_matrix(panel)), charts.matrix_table(panel)
        least_px, greatest_px = charts.matrix_width_px(panel)
        return {
            "kind": "matrix",
            "title": panel.title,
            "size": "wide" if least_px > COLUMN_PX else None,
            "place": place,
            "scrolls_on_phones": least_px > PHONE_PX,
            "least_px": least_px,
            "greatest_px": greatest_px,
            "numbers": table and _table(table),
        }

    def _place(self, chart: Model) -> str:
        place = f"chart-{len(self.figures) + 1}"
        self.figures[place] = chart
        return place


def _pictures(grid: ImageGrid) -> list[dict[str, Any]]:
    wrong = grid.wrong or (None,) * len(grid.images)
    return [
        {
            "source": charts.encode_picture(image) if image.size else None,
            "pixelated": max(image.shape[:2]) < colours.SMALL_PICTURE_PX,
            "caption": caption.split("\n"),
            "wrong": mark,
        }
        for image, caption, mark in zip(grid.images, grid.captions, wrong, strict=True)
    ]


def _large_pictures(panel: Maps | Heat) -> list[dict[str, Any]]:
    if isinstance(panel, Maps):
        encoded = [colours.encode_maps(maps) for maps in panel.maps]
    else:
        encoded = [colours.encode_heat(panel.picture, heat) for heat in (None, *panel.heats)]
    captions = panel.captions if isinstance(panel, Maps) else ("the picture", *panel.captions)
    return [
        {
            "source": source,
            "pixelated": longest_px < colours.SMALL_PICTURE_PX,
            "caption": caption.split("\n"),
            "wrong": None,
        }
        for (source, longest_px), caption in zip(encoded, captions, strict=True)
    ]


def _table_size(table: Table) -> str | None:
    """Return where a table stands and how it scrolls, as the style sheet names it."""
    rows, columns = len(table.rows), len(table.columns)
    scrolling = "scrolling " if rows > SCREEN_TABLE_ROWS else ""
    if columns > WIDE_TABLE_COLUMNS:
        return f"{scrolling}wide many-columns"
    if columns == 1:
        return f"{scrolling}wide"
    return f"{scrolling}long" if rows > LONG_TABLE_ROWS else None


def _table(table: Table) -> dict[str, Any]:
    """Return a table with the columns that are to be set as numbers: those with nothing else in them."""
    cells = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    numeric = [i > 0 and all(_NUMBER.fullmatch(cell) for cell in column) for i, column in enumerate(cells)]
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "numeric": numeric}


# ---------------------------------------------------------------- scripts


@cache
def _library() -> str:
    """Return BokehJS without its widgets, tables and typesetting, which the charts do not use."""
    return _inline("\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw))


def _inline(code: str) -> str:
    """Return JavaScript that can stand in a script element: it must not end it, nor be changed by the HTML parser."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE).replace("\r\n", "\n").replace("\r", "\n")


def _content_hash(code: str) -> str:
    """Return the source expression of a content-security policy that allows this script and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


# ---------------------------------------------------------------- template


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("convscope.report").joinpath("page.html.jinja").read_text("utf-8"))


def _finalize(value: object) -> object:
    """Return what the template prints for a value: text that is not our own markup becomes printable."""
    if value is None:
        return UNKNOWN
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
