"""Looking at our HTML files in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNTIL_DRAWN = """() => new Promise((done, fail) => {
  const drawn = place => Bokeh.index[place.dataset.rootId]?.has_finished();
  const places = [...document.querySelectorAll('[data-root-id]')];
  const look = () => places.every(drawn) ? done() : requestAnimationFrame(look);
  setTimeout(() => fail('the charts were not drawn within 20 s'), 20000);
  look();
})"""


@dataclass(frozen=True)
class Opened:
    """A page whose charts are drawn, and what it complained about and asked for meanwhile."""

    page: Any
    problems: list[str]
    requests: list[str]


def open_page(browser: Any, file: Path, width: int) -> Opened:  # noqa: ANN401
    """Return an HTML file in a window of so many pixels; `requests` are those for anything but the file itself."""
    opened = Opened(browser.new_page(viewport={"width": width, "height": 800}), [], [])
    page, problems = opened.page, opened.problems
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def note(request: Any) -> None:  # noqa: ANN401
        if not request.url.startswith(("data:", file.as_uri())):
            opened.requests.append(request.url)

    page.on("request", note)
    page.goto(file.as_uri())
    page.evaluate(UNTIL_DRAWN)
    return opened
