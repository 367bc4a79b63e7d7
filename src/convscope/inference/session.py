"""Graphs on ONNX Runtime; apart from the image loader, whose imports run while a graph is loaded."""

import os
import zlib
from pathlib import Path
from typing import TypeAlias

from convscope.cpu import available_processors
from convscope.errors import RunError, command
from convscope.inference.graph import check_graph
from convscope.storage.files import open_regular

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Read at the import of ONNX Runtime; otherwise it writes to ~/.cache and sends names of models to Microsoft."""
import onnxruntime  # noqa: E402

MODEL_FILE = "model.onnx"
CERTIFICATE_FILE = "certificate.json"

Session: TypeAlias = onnxruntime.InferenceSession


_SEAL = b"\xc5\x3e"
"""Key of field 1,000 of four bytes in the encoding of Protocol Buffers; ONNX has no such field, and readers pass over
it."""


def sealed(content: bytes) -> bytes:
    """Return a model file with its CRC-32 at the end, by which damage shows; it stays a model file."""
    return content + _seal_of(content)


def _seal_of(content: bytes | memoryview) -> bytes:
    return _SEAL + zlib.crc32(content).to_bytes(4, "little")


def load_session(path: Path, *, threads: int, is_sealed: bool = False) -> Session:
    """Return the graph of a file, ready to run.

    Args:
        is_sealed: the file was written by `sealed`.

    Raises:
        RunError: the file does not exist, or is not a graph that can be trusted to end.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist{_way_to_write(path.parent)}")
    try:
        with open_regular(path) as file:
            content = file.read()
        if is_sealed and content[-6:] != _seal_of(memoryview(content)[:-6]):
            raise ValueError("its content has changed since it was written")
        check_graph(content)
        return start_session(content, threads=threads)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        from convscope.data.names import printable  # imports the image loader, which a good file does not need

        reason = printable(" ".join(str(error).split()))[:200]
        raise RunError(f"{path} cannot be read as a model file ({reason}); export the run again") from error


def _way_to_write(run: Path) -> str:
    """Return how the model file of a run folder comes to be, or why it has none."""
    from convscope.storage.files import read_json

    certificate = read_json(run / CERTIFICATE_FILE) if (run / CERTIFICATE_FILE).is_file() else {"failed": None}
    if certificate["failed"] is not None:
        return f": {certificate['failed']}"
    if (run / "model.json").is_file():
        return f"; write it with: {command('export', run, '--to', 'onnx')}"
    if (run / "run.json").is_file():
        return f": the run is not finished; finish it with: {command('train', '--resume', run)}"
    return f"; {run} is not a run folder: `convscope runs` lists those in runs"


def start_session(content: bytes, *, threads: int) -> Session:
    """Return an ONNX graph ready to run on the CPU.

    Raises:
        RuntimeError: it is not a graph, or it needs an operator that ONNX Runtime lacks.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise RuntimeError(str(error)) from error


def threads_for(images: int | None, threads: int | None = None) -> tuple[int, int]:
    """Return (threads of one inference, batches at a time) for this many images; None: an unknown number.

    A single image gets all threads, any other number one thread each.

    Args:
        threads: in all; None is one for each processor this process may use.
    """
    processors = available_processors() if threads is None else threads
    return (processors, 1) if images == 1 else (1, processors)
