"""`export`: a finished run as one file that predicts without torch."""

from pathlib import Path

from convscope.device import process_unchanged
from convscope.errors import unknown_name
from convscope.inference.model_file import export_run
from convscope.storage.run_folder import locked

EXPORT_FORMATS = ("onnx",)


@process_unchanged()
def export(run: str | Path, *, to: str = "onnx", out: str | Path | None = None) -> Path:
    """Write a finished run as one file that predicts without torch, RUN/model.onnx unless `out` says otherwise.

    Raises:
        UsageError: the format is unknown.
        RunError: the run is not finished.
        ExportError: the network has no such form.
    """
    if to not in EXPORT_FORMATS:
        raise unknown_name("format", to, EXPORT_FORMATS)
    run = Path(run)
    with locked(run):
        return export_run(run, None if out is None else Path(out))
