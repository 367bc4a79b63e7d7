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
    from convscope.api import evaluate, export, inspect, make_config, recipe, resume, run_config, train, write_report
    from convscope.checkup import check_data
    from convscope.prediction import predict
    from convscope.series.compare import compare

__all__ = [
    "check_data",
    "compare",
    "evaluate",
    "export",
    "inspect",
    "make_config",
    "predict",
    "recipe",
    "resume",
    "run_config",
    "train",
    "write_report",
]

__version__ = "0.1.0"

_ELSEWHERE = {
    "predict": "convscope.prediction",
    "check_data": "convscope.checkup",
    "compare": "convscope.series.compare",
}
"""Verbs that are not in api.py: prediction and data checks need no torch, a comparison stands above single runs."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in __all__:
        from convscope.processors import let_idle_threads_sleep

        let_idle_threads_sleep()
        return getattr(import_module(_ELSEWHERE.get(name, "convscope.api")), name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")
