"""The command line: reads options, calls api.py, prints. Heavy imports stay inside the commands.

Results go to stdout (one JSON object with --json), everything else to stderr.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted with the state saved.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import typer

from convscope.cli import budget, compare, data, inspect, lab, models, predict, runs, train
from convscope.cli.console import error_console, escape
from convscope.errors import ConvscopeError
from convscope.processors import let_idle_threads_sleep

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "recipe": train.recipe,
    "evaluate": runs.evaluate,
    "budget": budget.budget,
    "inspect": inspect.inspect,
    "compare": compare.compare,
    "lab": lab.lab,
    "predict": predict.predict,
    "report": runs.report,
    "export": runs.export,
    "runs": runs.runs,
    "models": models.models,
}
"""The verbs, in the order of `convscope --help`."""
DATA_COMMANDS: dict[str, Callable[..., None]] = {"list": data.list_, "check": data.check}
"""What follows `convscope data`."""


def _build_app(commands: dict[str, Callable[..., None]], help_: str) -> typer.Typer:
    app = typer.Typer(help=help_, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    for name, command in commands.items():
        app.command(name)(command)
    return app


app = _build_app(COMMANDS, "A workbench for CNN image classification on the computer you have.")
app.add_typer(_build_app(DATA_COMMANDS, "Data sets."), name="data")


def main() -> None:
    """Run the command line; errors raised on purpose end in one line and their exit code."""
    let_idle_threads_sleep()
    try:
        app()
    except ConvscopeError as error:
        error_console().print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        error_console().print("interrupted before training began; nothing was written")
        sys.exit(130)
    finally:
        gc.freeze()  # at exit Python would walk every object of torch once more, for half a second
