"""`data check`, wired together: the images are looked at, the page and the JSON are written. Imports no torch."""

from pathlib import Path

from convscope.config import MAX_PIXELS, DataConfig
from convscope.data.health import Health, check_health
from convscope.pages.health import draw_health, health_to_json
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.storage.files import create_folder, write_bytes, write_json

PAGE, FIGURES = "health.html", "health.json"


def check(
    data: str | Path,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Health:
    """Return how healthy a data set is: what training would accept, what it would skip, and what is worth a look.

    Args:
        data: the name of a data set, or a folder, archive or CSV of images.
        max_pixels, allow_truncated: see DataConfig.
        out: folder for health.html and health.json; None writes neither.

    Raises:
        UsageError: there is no such data set.
        DataError: an archive or CSV is damaged, or a folder cannot be read.
        RunError: `out` cannot be written.

    Example:
        >>> convscope.check("photos.zip", out="health")  # doctest: +SKIP
    """
    config = DataConfig(
        source=str(data),
        data_dir=None if data_dir is None else str(Path(data_dir).resolve()),
        max_pixels=max_pixels,
        allow_truncated=allow_truncated,
    )
    health = check_health(config, on_progress)
    if out is not None:
        on_progress(Progress("writing the page", 0, None))
        create_folder(Path(out))
        write_json(Path(out) / FIGURES, health_to_json(health))
        write_bytes(Path(out) / PAGE, draw_health(health))
    return health
