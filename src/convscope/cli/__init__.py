"""The command line: reads options, calls the verbs, prints. Heavy imports stay inside the commands.

Results go to stdout (one JSON object with --json), everything else to stderr.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 stopped by Ctrl-C or SIGTERM.
"""

import gc
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated

import typer

from convscope import __version__
from convscope.cli.console import error_console, escape, escape_unencodable
from convscope.cpu import let_idle_threads_sleep
from convscope.errors import ConvscopeError, Interrupted
from convscope.training.interrupts import interruptible, say

COMMANDS = (
    *("train", "recipe", "evaluate", "predict", "inspect", "compare"),
    *("budget", "check", "report", "export", "lab", "runs", "models"),
)
"""The verbs in the order of `convscope --help`; each has a file of its name here, with a function of its name."""
SHORTAGE = (
    *("can't start new thread", "an't allocate memory", "annot allocate memory", "ailed to map segment"),
    *("bad allocation", "bad_alloc", "Resource temporarily unavailable"),
)
"""What Python, torch, ONNX Runtime and the loader of libraries say where memory or threads are used up."""
DATA_COMMANDS = {"list": "data.list_", "check": "check.check"}
"""What follows `convscope data`; `data check` is the old spelling of `check`."""


def build_app(asked: str = "") -> typer.Typer:
    """Return the command line; where one of COMMANDS is asked for, with that alone, which is there sooner."""
    alone = asked in COMMANDS
    commands = {name: f"{name}.{name}" for name in ([asked] if alone else COMMANDS)}
    app = _with_commands(commands, "A workbench for CNN image classification on the computer you have.", _options)
    if not alone:
        app.add_typer(_with_commands(DATA_COMMANDS, "Data sets.", lambda: None), name="data")
    return app


def _with_commands(table: Mapping[str, str], help_: str, options: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(help=help_, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(options)  # without one a single command would go without its name
    for name, place in table.items():
        module, function = place.split(".")
        app.command(name)(getattr(import_module(f"convscope.cli.{module}"), function))
    return app


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"convscope {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors raised on purpose end in one line and their exit code."""
    let_idle_threads_sleep()
    escape_unencodable()
    asked = "".join(sys.argv[1:2])
    try:
        with interruptible(f"convscope {asked} was stopped; nothing is half-written: run it again"):
            _run(asked)
    except Interrupted as stop:
        say(str(stop))
        sys.exit(stop.exit_code)
    except ConvscopeError as error:
        error_console().print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in SHORTAGE)):
            raise
        reason = escape(" ".join(str(error).split())[:200]) or "MemoryError"
        advice = "close other programs, raise the limit (ulimit -v, -u), or use fewer --threads and a smaller batch"
        error_console().print(f"[bold red]error:[/] out of memory or threads ({reason}); {advice}", soft_wrap=True)
        sys.exit(1)
    finally:
        gc.freeze()  # at exit Python would walk every object of torch once more, for half a second


def _run(asked: str) -> None:
    try:
        build_app(asked)()
    except SystemExit as end:
        if end.code == Interrupted.exit_code:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt from None
        raise
