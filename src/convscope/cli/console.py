"""What every command prints with: results to stdout, everything else to stderr.

rich is imported where something is drawn: that takes longer than the whole of a prediction.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.progress import OnProgress, Progress
from convscope.results.text import printable

if TYPE_CHECKING:
    from rich.console import Console, Group

    from convscope.results.prediction import Skipped
    from convscope.results.run import Accuracy, RunResult


LONGEST_WHOLE, WIDE = 16, 10_000
"""Cells of up to this many letters, such as figures and dates, are never broken; the width of a table in a pipe."""
OF_THE_MOMENT = ("memory", "left")
"""Figures of a stage at work that a terminal leaves out once it is finished, so that its line fits into 80 letters."""


@cache
def out_console() -> Console:
    """Return the console of results."""
    from rich.console import Console

    return Console(soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else WIDE)


@cache
def error_console() -> Console:
    """Return the console of everything else."""
    from rich.console import Console

    return Console(stderr=True, emoji=False)


def print_text(text: str, *, note: bool = False, **style: Any) -> None:  # noqa: ANN401
    """Print one line of text to stdout, a note to stderr; what would command the terminal becomes an escape."""
    (error_console() if note else out_console()).print(printable(text), highlight=False, markup=False, **style)


def escape_unencodable() -> None:
    """Print a character that stdout or stderr cannot encode as an escape, where it would end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_lines(lines: Sequence[tuple[str, str]], *, width: int = 10) -> None:
    """Print names and values, a pair a line, the values under one another."""
    for name, value in lines:
        print_text(f"{name:{width}}{value}")


def escape(text: str) -> str:
    """Return text on one line, in which no square bracket is markup and nothing commands the terminal."""
    from rich.markup import escape

    return escape(printable(text))


@contextmanager
def start(as_json: bool, *, module: str | None = "convscope.api.train") -> Iterator[OnProgress]:
    """Yield a progress callback that draws on stderr: a live bar on a terminal, one line an epoch elsewhere.

    Args:
        module: what the command needs, and torch with it, which takes seconds to import; None: it needs no torch.
    """
    if module is not None:
        with error_console().status("starting"):
            import_module(module)
    if error_console().is_terminal:
        with _live_stage() as show:
            yield show
    else:
        announced: set[str] = set()
        yield lambda progress: _print_finished_stages(progress, announced)


@contextmanager
def _live_stage() -> Iterator[OnProgress]:
    """Yield a progress callback that draws the stage that is at work; what is finished stands above it, a line each.

    The time left has a place of its own beside the bar, and the other figures a line of their own, so that both can be
    read on a narrow terminal.
    """
    from rich.live import Live

    at_work: Progress | None = None

    def show(progress: Progress) -> None:
        nonlocal at_work
        former, finished = at_work, progress.total is not None and progress.done >= progress.total
        same = former is not None and former.stage == progress.stage
        at_work = (None if same or former is None or former.total is None else former) if finished else progress
        live.update(_draw_stage(at_work) if at_work is not None else "", refresh=finished or not same)
        if former is not None and former.total is None and not same:  # nobody says when it ends
            print_text(_stage_text(former), note=True)
        if finished:
            values = {name: value for name, value in progress.values.items() if name not in OF_THE_MOMENT}
            print_text(_stage_text(replace(progress, values=values)), note=True)

    with Live(console=error_console(), transient=True) as live:
        yield show


def _draw_stage(progress: Progress) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    values = dict(progress.values)
    left = f"{values.pop('left')} left" if "left" in values else ""
    count = f"{progress.done:,}" if progress.total is None else f"{progress.done:,}/{progress.total:,}"
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(progress.total, progress.done, width=20, pulse=progress.total is None)
    line.add_row(escape(progress.stage), bar, count if progress.done or progress.total else "", left)
    return Group(line, *([Text(f"  {_values_text(values)}", style="dim")] if values else []))


def _print_finished_stages(progress: Progress, announced: set[str]) -> None:
    """Print a stage when it is finished; one of unknown length when it begins, and its count at the end."""
    if progress.total is None and progress.stage in announced:
        return
    if progress.total is None or progress.done >= progress.total:
        announced.add(progress.stage)
        print_text(_stage_text(progress), note=True, soft_wrap=True)


def _stage_text(progress: Progress) -> str:
    """Return what is said of a finished stage, or of one of unknown length, in one line."""
    count = f"{progress.done:,}" if progress.total else ""
    return f"{progress.stage}  {_values_text(progress.values) or count}".rstrip()


def _values_text(values: Mapping[str, str]) -> str:
    return "  ".join(f"{name} {value}" for name, value in values.items())


def print_result(result: RunResult, *, as_json: bool, report: bool) -> None:
    """Print how a run ended."""
    from convscope.evaluation.records import result_to_json
    from convscope.results.run import split_text

    if as_json:
        print_json(result_to_json(result))
        return
    accuracy = result.accuracy
    lines = [
        ("accuracy", f"{accuracy_text(accuracy)} on {split_text(result.split, result.data)}"),
        *_compared(result),
        ("loss", f"{result.metrics.loss:.4f}"),
        ("network", f"{result.model}, {result.num_params:,} parameters"),
    ]
    if result.epochs == 0 and result.train_seconds is not None:
        lines.append(("training", f"the head of the frozen network was fitted in {result.train_seconds:.1f} s"))
    if result.train_seconds is not None and result.fraction_of_peak_flops is not None:
        speed = f"{result.fraction_of_peak_flops:.0%} of this machine's measured peak"
        epochs = "1 epoch" if result.epochs == 1 else f"{result.epochs} epochs"
        lines.append(("training", f"{epochs} in {result.train_seconds:.1f} s, {speed}"))
    lines += [("note", note) for note in result.notes]
    lines.append(("run", result.run))
    if report:
        lines.append(("report", str(Path(result.run) / "report.html")))
    print_lines(lines)


def _compared(result: RunResult) -> Iterator[tuple[str, str]]:
    """Yield the accuracy on images that training has not seen, where it has seen some, and that of guessing."""
    from convscope.results.run import guessing_text

    other = result.other_data
    if result.leaked_images:  # the source put them into two splits
        without = result.accuracy_without_leaked
        others = "no others" if without is None else accuracy_text(without)
        leaked = f"{result.leaked_images:,} that training or validation data have too, or nearly so"
        yield "unleaked", f"{others} without the {leaked}"
    if other is not None and other.trained_on:
        without = other.accuracy_without
        others = "no others" if without is None else accuracy_text(without)
        yield "unseen", f"{others} without the {other.trained_on:,} that the run trained on or validated with"
    if result.baseline_accuracy is not None and result.baseline_class is not None:
        shown = other.accuracy_without if other is not None and other.accuracy_without else result.accuracy
        yield "guessing", guessing_text(shown.low, result.baseline_accuracy, result.baseline_class)


def print_skipped(skipped: Sequence[Skipped], *, most: int | None = None) -> None:
    """Print files that were skipped to stderr, at most `most` of them, with reasons and remedies."""
    if skipped:
        print_text(f"{len(skipped):,} file(s) skipped:", note=True)
        rows = [(item.file, item.reason, item.remedy) for item in skipped[:most]]
        print_table(("file", "reason", "remedy"), rows, console=error_console())
        if len(rows) < len(skipped):
            print_text(f"and {len(skipped) - len(rows):,} more, listed in skipped.csv", note=True)


def accuracy_text(accuracy: Accuracy) -> str:
    """Return an accuracy with its n and interval, one line."""
    interval = f"95 % interval {accuracy.low:.2%} to {accuracy.high:.2%}"
    return f"{accuracy.value:.2%} ({accuracy.correct:,} of {accuracy.n:,}; {interval})"


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, console: Console | None = None) -> None:
    """Print rows under column headings, to stdout by default; square brackets in a cell are text.

    Where nobody looks, as in a pipe, a row is a line.
    """
    from rich.table import Table as TextTable

    table = TextTable(box=None, pad_edge=False, header_style="bold")
    for number, (column, *cells) in enumerate(zip(columns, *rows, strict=True)):
        longest = max(map(len, cells), default=0)
        whole = 40 if number == 0 else LONGEST_WHOLE
        least = None if number and longest > whole else min(longest, whole)
        table.add_column(column, overflow="fold", min_width=least)
    for row in rows:
        table.add_row(*map(escape, row))
    (console or out_console()).print(table, highlight=False)


def print_items(items: Iterable[Any], columns: Mapping[str, Callable[[Any], str | int | None]]) -> None:
    """Print a row for each item: column heading -> function that returns the item's cell."""
    print_table(tuple(columns), [tuple(cell(value(item)) for value in columns.values()) for item in items])


def cell(value: str | int | None) -> str:
    """Return a value as it stands in a table."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def print_json(tree: Any) -> None:  # noqa: ANN401
    """Print one JSON object, on one line of ASCII."""
    sys.stdout.write(json.dumps(tree, allow_nan=False) + "\n")
