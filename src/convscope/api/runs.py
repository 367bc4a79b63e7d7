"""The runs in a folder, as a list. Imports no torch."""

from pathlib import Path
from typing import Any

from convscope.storage.run_folder import summarize_runs


def list_runs(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """Return one dict for each run in a folder, newest first; figures are None while a run is not finished."""
    return summarize_runs(Path(folder))
