"""The fastest way to run a frozen part of a network over many pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from convscope.engine import rows_at_once
from convscope.errors import ExportError
from convscope.evaluation.forward import Floats, Forward, torch_forward
from convscope.exporting.onnx_file import trace
from convscope.onnx_session import start_session
from convscope.processors import available_processors


def fastest_forward(module: nn.Module, device: torch.device, *, threads: int | None = None) -> Forward:
    """Return a module as it runs fastest in evaluation mode: by ONNX Runtime on a CPU, elsewhere by torch.

    The module is translated when it is first called, and left to torch where it has no ONNX form.

    Args:
        threads: of the CPU; None takes one for each processor this process may use.
    """
    by_torch = torch_forward(module, device)
    if device.type != "cpu":
        return by_torch

    @cache
    def run_for(shape: tuple[int, ...]) -> Callable[[Floats], Floats]:
        try:
            return _onnx_run(module, shape, threads or available_processors())
        except (ExportError, RuntimeError):  # no operator for something in it
            return by_torch.run

    engine = f"onnxruntime {version('onnxruntime')}, else {by_torch.engine}"
    return Forward(lambda x: run_for(x.shape[1:])(x), engine)


def _onnx_run(module: nn.Module, shape: tuple[int, ...], threads: int) -> Callable[[Floats], Floats]:
    """Return a module on ONNX Runtime for inputs [B, *shape].

    Each thread runs its own few rows on one core, which is faster than all cores on many rows: see `rows_at_once`.

    Raises:
        ExportError, RuntimeError: it has no ONNX form, or one that ONNX Runtime cannot run.
    """
    content = trace(module, torch.zeros(2, *shape), input_name="input", output_names=("output",))
    session = start_session(content, threads=1)
    rows = rows_at_once(4 * int(np.prod(shape)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="forward")

    def run_rows(x: Floats) -> Floats:
        (found,) = session.run(["output"], {"input": x})
        return np.asarray(found, np.float32)

    def run(x: Floats) -> Floats:
        return np.concatenate(list(pool.map(run_rows, (x[start : start + rows] for start in range(0, len(x), rows)))))

    return run
