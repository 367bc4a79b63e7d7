"""run.json, what a run was started with. Imports little: `predict` reads it."""

from pathlib import Path
from typing import Any

from convscope.errors import RunError
from convscope.storage.files import check_text, read_unchecked_json
from convscope.storage.schemas import check_record

RUN_SCHEMA = 2
"""Version of the run folder's files; one that an older run folder does not have is refused, never guessed at."""


def read_start(run: Path) -> dict[str, Any]:
    """Return the content of run.json.

    Raises:
        RunError: there is none, another version of convscope wrote it, or it holds what it cannot.
    """
    check_text(run)
    start = read_unchecked_json(run / "run.json")
    schema = start.get("schema") if isinstance(start, dict) else None
    if schema != RUN_SCHEMA:
        found = "convscope 0.1 wrote it before schema 2" if schema is None else f"it has schema {schema!r}"
        raise RunError(
            f"{run} cannot be read: {found}, expected schema {RUN_SCHEMA}; train again into a new folder "
            "(--out), or use the convscope version that wrote it"
        )
    record: dict[str, Any] = check_record(run / "run.json", start)
    return record


def check_schema(run: Path) -> None:
    """Raise, as `read_start`, for a run that another version of convscope wrote; one without run.json passes."""
    if (run / "run.json").exists():
        read_start(run)
