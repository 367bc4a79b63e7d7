"""Graphs on ONNX Runtime, apart from the readers of pictures, which are imported while a graph is prepared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from convscope.errors import RunError
from convscope.processors import available_processors

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Read when ONNX Runtime is imported; else it keeps a database in ~/.cache and sends names of models to Microsoft."""
import onnxruntime  # noqa: E402

MODEL_FILE = "model.onnx"

Session: TypeAlias = onnxruntime.InferenceSession


def load_session(path: Path, *, threads: int) -> Session:
    """Return the graph in a file, ready to run.

    Raises:
        RunError: there is no such file, or it holds no graph.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist; write it with: convscope export {path.parent} --to onnx")
    try:
        return start_session(path.read_bytes(), threads=threads)
    except (OSError, RuntimeError) as error:
        from convscope.data.names import printable  # with all that reads pictures: not before it is needed

        reason = printable(" ".join(str(error).split()))[:200]
        raise RunError(f"{path} cannot be read as a model file ({reason}); export the run again") from error


def start_session(content: bytes, *, threads: int) -> Session:
    """Return an ONNX graph ready to run on the CPU.

    Raises:
        RuntimeError: it is none, or asks for an operation that ONNX Runtime lacks.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings would mix with what we print
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of ONNX Runtime's own classes, which have no common base
        raise RuntimeError(str(error)) from error


def threads_for(pictures: int | None) -> tuple[int, int]:
    """Return (threads of one inference, batches at a time) for so many pictures, None for unknown: many.

    One picture has all processors to itself; of several each has one.
    """
    processors = available_processors()
    return (processors, 1) if pictures == 1 else (1, processors)
