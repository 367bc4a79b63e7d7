"""convscope: a workbench for CNN image classification on the computer you have.

    import convscope
    result = convscope.train("mnist5k")
    print(result.accuracy)

The verbs are those of the command line; importing this package imports no torch until one of them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope.api.budget import budget
    from convscope.api.check import check
    from convscope.api.compare import compare
    from convscope.api.evaluate import evaluate
    from convscope.api.export import export
    from convscope.api.inspect import inspect
    from convscope.api.lab import lab, list_labs
    from convscope.api.models import list_models
    from convscope.api.predict import predict
    from convscope.api.recipe import list_recipes, recipe
    from convscope.api.report import report
    from convscope.api.runs import list_runs
    from convscope.api.train import resume, train
    from convscope.run.configure import make_config
    from convscope.run.start import run_config

__all__ = [
    "budget",
    "check",
    "compare",
    "evaluate",
    "export",
    "inspect",
    "lab",
    "list_labs",
    "list_models",
    "list_recipes",
    "list_runs",
    "make_config",
    "predict",
    "recipe",
    "report",
    "resume",
    "run_config",
    "train",
]

__version__ = "0.1.0"

_MODULES = {
    "list_labs": "api.lab",
    "list_models": "api.models",
    "list_recipes": "api.recipe",
    "list_runs": "api.runs",
    "make_config": "run.configure",
    "resume": "api.train",
    "run_config": "run.start",
}
"""Module of each name without a file of its own in `api`."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in __all__:
        from convscope.cpu import let_idle_threads_sleep

        let_idle_threads_sleep()
        return getattr(import_module(f"convscope.{_MODULES.get(name, f'api.{name}')}"), name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
