"""Options that several commands take, and how their values are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder to create; default: a new one in runs/.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the files of a named data set.")]


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of a comma list; None is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def parse_batch_size(text: str) -> int | str:
    """Return the number, or `auto`."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"batch size {text!r} is neither a whole number nor auto; for example --batch-size 64"
        ) from None


def parse_split(text: str) -> tuple[float, ...]:
    """Return the percentages of `70/15/15`."""
    try:
        return tuple(float(share) for share in text.split("/"))
    except ValueError:
        raise UsageError(f"split {text!r} is not three percentages; for example --split 70/15/15") from None


def takes_options(
    options_of: Callable[..., dict[str, Any]], *, without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of a function, whose result the command gets as `options`.

    Args:
        options_of: takes options alone, each with a default.
        without: those that the command does not take, beside the ones it has itself.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
        left_out = {*without, *(parameter.name for parameter in own)}
        offered = inspect.signature(options_of, eval_str=True).parameters.values()
        shared = [parameter for parameter in offered if parameter.name not in left_out]

        def run(**values: Any) -> None:  # noqa: ANN401
            options = options_of(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            command(**values, options=options)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate
