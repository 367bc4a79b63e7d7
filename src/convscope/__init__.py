"""convscope: a workbench for CNN image classification on the computer you have.

    import convscope
    result = convscope.train("mnist5k")
    print(result.accuracy)

The verbs are those of the command line; importing this package imports no torch until one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope.api import evaluate, inspect, make_config, recipe, resume, run_config, train, write_report
    from convscope.series.compare import compare

__all__ = ["compare", "evaluate", "inspect", "make_config", "recipe", "resume", "run_config", "train", "write_report"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in __all__:
        from convscope.processors import let_idle_threads_sleep

        let_idle_threads_sleep()
        from convscope import api
        from convscope.series.compare import compare

        return compare if name == "compare" else getattr(api, name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")
