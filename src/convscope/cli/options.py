"""Options of the command line: those of a run, made from its configuration's fields, and those that verbs share."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.config import OUTPUT, PANELS, Option, flag_of, options
from convscope.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.", rich_help_panel=OUTPUT)]


Command = Callable[..., None]


def takes_options(*, only: Sequence[str] = (), without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options of a run, which it gets as `options`: those given.

    Args:
        only: those that the command takes; () for all but `without`, and the ones it has itself.
    """

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
        left_out = {*without, *(parameter.name for parameter in own)}
        shared = [
            each
            for each in options().values()
            if each.panel is not None and each.name not in left_out and (not only or each.name in only)
        ]

        def run(**values: Any) -> None:  # noqa: ANN401
            given = {each.name: values.pop(each.name) for each in shared}
            command(**values, options=parse_options(given))

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *map(_parameter, shared))]
        run.__signature__ = inspect.Signature(sorted(parameters, key=_place))  # type: ignore[attr-defined]
        return run

    return decorate


def _place(parameter: inspect.Parameter) -> int:
    """Return where a parameter comes in the help: arguments first, then the options panel by panel."""
    panel = getattr(parameter.annotation.__metadata__[0], "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1


def _parameter(each: Option) -> inspect.Parameter:
    """Return the parameter of a command for an option of a run."""
    flag, text = flag_of(each.name), each.help
    kind: type = str
    if bool in each.kinds:
        kind = bool
        flag += f"/{flag_of(f'no_{each.name}')}"
    elif each.name not in ("batch_size", "memory"):  # a word where the configuration has a number
        kind = next((number for number in (int, float) if number in each.kinds), str)
    if not (each.default is None or each.default == () or isinstance(each.default, bool) or "default" in text):
        text = f"{text.removesuffix('.')} (default: {each.default})."
    info = typer.Option(flag, help=text, rich_help_panel=each.panel)
    annotation = Annotated[kind | None, info]  # type: ignore[valid-type]
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def parse_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a run, as the command line gives them, as the Python API takes them, those not given left out.

    Raises:
        UsageError: a text is not what the option takes.
    """
    return {name: _parse(options()[name], value) for name, value in given.items() if value is not None}


def _parse(each: Option, value: Any) -> Any:  # noqa: ANN401
    if each.name == "data_dir":
        return str(Path(value).resolve())
    if each.name in TEXTS:
        parse, complaint = TEXTS[each.name]
        try:
            return parse(value)
        except ValueError:
            raise UsageError(f"{each.name.replace('_', ' ')} {value!r} {complaint}") from None
    return parse_names(value) if tuple in each.kinds else value


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names of a comma list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


TEXTS: dict[str, tuple[Callable[[str], Any], str]] = {
    "batch_size": (
        lambda text: text if text == "auto" else int(text),
        "is neither a whole number nor auto; for example --batch-size 64",
    ),
    "split": (
        lambda text: tuple(map(float, text.split("/"))),
        "is not three percentages; for example --split 70/15/15",
    ),
}
"""How the text of an option is read where its type does not say it, and what is wrong where it cannot be."""
