"""The progress of a stage on a terminal: what is at work is in sight, what is finished stays, a line each."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from convscope.cli import console
from convscope.progress import Progress

WIDTH, HEIGHT = 80, 10


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    size = {"width": WIDTH, "height": HEIGHT}
    screen = Console(file=written, force_terminal=True, force_interactive=True, color_system=None, **size)
    monkeypatch.setattr(console, "error_console", lambda: screen)
    return written


def epoch(number: int, done: int) -> Progress:
    figures = {"loss": "0.1234", "accuracy": "98.76%", "validation": "97.50%", "images/s": "12,345"}
    now = {"memory": "1,234 of 2,000 MiB", "left": "1,234 s"}
    return Progress(f"epoch {number}/30", done, 60_000, "images", figures | now)


def text_of(terminal: io.StringIO) -> str:
    """Return what was written without the escape sequences that move the cursor."""
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", terminal.getvalue())


def drawn(terminal: io.StringIO) -> list[str]:
    """Return what stands below a line that is printed now."""
    terminal.truncate(terminal.seek(0))
    console.print_text("a line", note=True)
    return text_of(terminal).partition("a line\n")[2].splitlines()


def test_the_epoch_at_work_and_its_time_left_are_in_sight_however_many_there_were(terminal: io.StringIO) -> None:
    with console.start(as_json=False, module=None) as show:
        for number in range(1, 31):
            show(epoch(number, 30_000))
            if number < 30:
                show(epoch(number, 60_000))
        above, lines = text_of(terminal).splitlines(), drawn(terminal)
    finished = [line.split("  ")[0] for line in above if line.startswith("epoch") and "98.76%" in line]
    assert finished == [f"epoch {number}/30" for number in range(1, 30)]
    assert len(lines) <= HEIGHT
    assert lines[0].startswith("epoch 30/30")
    assert lines[0].rstrip().endswith("30,000/60,000 1,234 s left")
    assert "memory 1,234 of 2,000 MiB" in " ".join(lines)
    assert all(len(line) <= WIDTH for line in lines)


def test_a_stage_of_unknown_length_is_in_sight_until_another_begins(terminal: io.StringIO) -> None:
    with console.start(as_json=False, module=None) as show:
        show(Progress("reading images", 1, None))
        assert drawn(terminal)[0].startswith("reading images")
        show(Progress("reading images", 3, 3))
        show(Progress("writing the report", 0, None))
        show(epoch(1, 0))
        stages = [line.strip("\r ") for line in text_of(terminal).splitlines()]
        assert "reading images  3" in stages
        assert "writing the report" in stages
        assert drawn(terminal)[0].startswith("epoch 1/30")
        show(epoch(1, 60_000))
        assert drawn(terminal) == []
