"""A page: sections and their panels in one HTML file that needs no internet connection."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bokeh.embed import components
from bokeh.model import Model
from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined, Template, UndefinedError
from markupsafe import Markup

from convscope.errors import RunError
from convscope.pages import charts, heatmaps
from convscope.pages.section import RecordedRun, Section
from convscope.pages.sections import SECTIONS
from convscope.pages.text import UNKNOWN, headline_text, printable, time_text
from convscope.results.panels import Curves, FeatureMaps, Heat, ImageGrid, Intervals, Matrix, Panel, Scatter, Table
from convscope.storage.files import write_bytes

COLUMN_PX = 480
"""Width of one of the two columns of panels on a desktop screen."""
PHONE_PX = 358
"""Width of a panel on a phone of 390 px; a wider matrix scrolls in its frame, with a hint."""
LONG_TABLE_ROWS, SCREEN_TABLE_ROWS = 20, 35
"""A table with more rows than the first spans several rows of panels; with more than the second, it scrolls."""
WIDE_TABLE_COLUMNS = 6
"""A table with more columns spans both columns of panels; so does a table with only one, of sentences."""
_QUANTITY = r"[-+]?[\d,]+(\.\d+)?(e[-+]\d+)?(\s(%|h|min|s|ms|bytes|[KMG]iB))?"
_NUMBER = re.compile(rf"(< )?{_QUANTITY}(( to)? {_QUANTITY})*|–")
"""One number with or without its unit, a range of two, or hours, minutes and seconds."""
_CHARTS: dict[type, tuple[Callable[[Any], Model], Callable[[Any], Table | None]]] = {
    Curves: (charts.draw_curves, charts.curves_table),
    Scatter: (charts.draw_scatter, charts.scatter_table),
    Intervals: (charts.draw_intervals, charts.intervals_table),
    Matrix: (charts.draw_matrix, charts.matrix_table),
}
"""Kind of panel -> its chart, and the table with the same numbers."""


def build_report(run: Path) -> Path:
    """Write RUN/report.html from what the run has recorded so far and return its path.

    Raises:
        RunError: the folder holds no run, a file in it is broken, or the report cannot be written.
    """
    sections, heading = read_report(run)
    with _refusing(run):
        content = render_page(sections, **heading)
    path = run / "report.html"
    write_bytes(path, content)
    return path


def read_report(run: Path) -> tuple[dict[str, Section], dict[str, str]]:
    """Return the sections of a run's report, and its heading; raises RunError as `build_report`."""
    with _refusing(run):
        recorded = RecordedRun(run)
        return {name: compute(recorded) for name, compute in SECTIONS.items()}, _heading(recorded)


@contextmanager
def _refusing(run: Path) -> Iterator[None]:
    """Raise a RunError where the files of a run, each of which says what it can, do not fit one another."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UndefinedError) as error:
        raise RunError(
            f"{run} holds no run that this version can report ({type(error).__name__}: {error}); "
            "use the version named in its run.json, or train again"
        ) from error


def _heading(run: RecordedRun) -> dict[str, str]:
    facts = run.facts
    return {
        "title": f"{facts['model']['name']} on {facts['data']['name']}",
        "headline": headline_text(run.results) if run.results else "",
        "origin": f"Run {run.name}, started {time_text(facts['created'])}, convscope {facts['convscope']}",
    }


def render_page(sections: Mapping[str, Section], *, title: str, headline: str, origin: str) -> bytes:
    """Return an HTML file with these sections; their keys are the anchors of links.

    Args:
        headline: the most important result; "": none.
    """
    charts_by_place: dict[str, Model] = {}
    shown = [
        {"name": name, "section": section, "panels": [_draw(panel, charts_by_place) for panel in section.panels]}
        for name, section in sections.items()
    ]
    scripts: list[str] = []
    divisions: Mapping[str, str] = {}
    if charts_by_place:
        code, divisions = components(charts_by_place, wrap_script=False)
        scripts = [_library(), _inline(code)]
    content = _template().render(
        title=title,
        headline=headline,
        origin=origin,
        sections=shown,
        places={place: Markup(division) for place, division in divisions.items()},
        scripts=[Markup(script) for script in scripts],
        script_sources=" ".join(map(_content_hash, scripts)) or "'none'",
        style=Markup(files("convscope.pages").joinpath("page.css").read_text("utf-8")),
    )
    return content.encode()


def _draw(panel: Panel, charts_by_place: dict[str, Model]) -> dict[str, Any]:
    """Return a panel for the template; add its chart to the others."""
    if isinstance(panel, Table):
        return {"kind": "table", "size": _table_size(panel), **_table(panel)}
    if isinstance(panel, ImageGrid):
        return {"kind": "images", "title": panel.title, "images": _images(panel)}
    if isinstance(panel, FeatureMaps | Heat):
        many = isinstance(panel, FeatureMaps) and len(panel.maps) == 1 and len(panel.maps[0]) > heatmaps.MANY
        size = "large whole" if many else "large"
        return {"kind": "images", "size": size, "title": panel.title, "images": _large_images(panel)}
    draw, numbers = _CHARTS[type(panel)]
    place, table = f"chart-{len(charts_by_place) + 1}", numbers(panel)
    charts_by_place[place] = draw(panel)
    chart = {"kind": "curves", "title": panel.title, "place": place, "numbers": table and _table(table)}
    if not isinstance(panel, Matrix):
        return chart
    least_px, greatest_px = charts.matrix_width_px(panel)
    return chart | {
        "kind": "matrix",
        "size": "wide" if least_px > COLUMN_PX else None,
        "scrolls_on_phones": least_px > PHONE_PX,
        "least_px": least_px,
        "greatest_px": greatest_px,
    }


def _images(grid: ImageGrid) -> list[dict[str, Any]]:
    wrong = grid.wrong or (None,) * len(grid.images)
    return [
        _image(charts.encode_image(image) if image.size else None, max(image.shape[:2]), caption, mark)
        for image, caption, mark in zip(grid.images, grid.captions, wrong, strict=True)
    ]


def _large_images(panel: FeatureMaps | Heat) -> list[dict[str, Any]]:
    if isinstance(panel, FeatureMaps):
        encoded, captions = [heatmaps.encode_maps(maps) for maps in panel.maps], panel.captions
    else:
        heats = (None, *panel.heats)
        encoded = [heatmaps.encode_heat(panel.image, heat, full_colour=panel.full_colour) for heat in heats]
        captions = ("the image", *panel.captions)
        if panel.scale:
            encoded.append(heatmaps.encode_bar(signed=any((heat < 0).any() for heat in panel.heats)))
            captions = (*captions, panel.scale)
    return [_image(*image, caption) for image, caption in zip(encoded, captions, strict=True)]


def _image(source: str | None, longest_px: int, caption: str, wrong: bool | None = None) -> dict[str, Any]:
    """Return an image for the template."""
    pixelated = longest_px < heatmaps.SMALL_IMAGE_PX
    return {"source": source, "pixelated": pixelated, "caption": caption.split("\n"), "wrong": wrong}


def _table_size(table: Table) -> str | None:
    """Return the style classes for the place and the scrolling of a table."""
    rows, columns = len(table.rows), len(table.columns)
    scrolling = "scrolling " if rows > SCREEN_TABLE_ROWS else ""
    if columns > WIDE_TABLE_COLUMNS:
        return f"{scrolling}wide many-columns"
    if columns == 1:
        return f"{scrolling}wide"
    return f"{scrolling}long" if rows > LONG_TABLE_ROWS else None


def _table(table: Table) -> dict[str, Any]:
    """Return a table for the template, with the columns that hold only numbers marked."""
    cells = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    numeric = [i > 0 and all(_NUMBER.fullmatch(cell) for cell in column) for i, column in enumerate(cells)]
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "numeric": numeric}


# ---------------------------------------------------------------- scripts


@cache
def _library() -> str:
    """Return BokehJS without widgets, tables and typesetting, which the charts do not need."""
    return _inline("\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw))


def _inline(code: str) -> str:
    """Return JavaScript that neither ends its script element nor is changed by the HTML parser."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE).replace("\r\n", "\n").replace("\r", "\n")


def _content_hash(code: str) -> str:
    """Return the source expression of a content security policy that allows only this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


# ---------------------------------------------------------------- template


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("convscope.pages").joinpath("page.html.jinja").read_text("utf-8"))


def _finalize(value: object) -> object:
    """Return what the template prints for a value; text that is not our own markup becomes printable."""
    if value is None:
        return UNKNOWN
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
