"""The fastest way to run the frozen layers of a network on many images."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from convscope.cpu import available_processors
from convscope.errors import ExportError
from convscope.evaluation.predict import Floats, Forward, torch_forward
from convscope.inference.engine import rows_at_once
from convscope.inference.export import trace
from convscope.inference.session import start_session


def fastest_forward(module: nn.Module, device: torch.device, *, threads: int | None = None) -> Forward:
    """Return the fastest way to run a module in evaluation mode: ONNX Runtime on a CPU, torch elsewhere.

    The first call exports the module; if it has no ONNX form, torch runs it.

    Args:
        threads: of the CPU; None: one for each core that this process may use.
    """
    by_torch = torch_forward(module, device)
    if device.type != "cpu":
        return by_torch

    @cache
    def run_for(shape: tuple[int, ...]) -> Callable[[Floats], Floats]:
        try:
            return _onnx_run(module, shape, threads or available_processors())
        except (ExportError, RuntimeError):  # ONNX has no operator for something in it
            return by_torch.run

    engine = f"onnxruntime {version('onnxruntime')}, else {by_torch.engine}"
    return Forward(lambda x: run_for(x.shape[1:])(x), engine)


def _onnx_run(module: nn.Module, shape: tuple[int, ...], threads: int) -> Callable[[Floats], Floats]:
    """Return a module on ONNX Runtime for inputs [B, *shape].

    Each thread runs a few rows on one core, which is faster than all cores on many rows: see `rows_at_once`.

    Raises:
        ExportError, RuntimeError: the module has no ONNX form, or ONNX Runtime cannot run it.
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
