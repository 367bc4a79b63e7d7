"""`predict` as a function: the model and the pictures are found, the engine does the rest. Imports no torch.

The one exception: a network with published weights is written as a model file when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from convscope import __version__
from convscope.config import MAX_PIXELS
from convscope.download import cache_folder
from convscope.errors import RunError, UsageError
from convscope.onnx_session import MODEL_FILE, load_session, threads_for
from convscope.pictures import PicturePrediction, Skipped
from convscope.progress import OnProgress, Progress, ignore_progress

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2")
"""A single file with another name is taken for one picture where threads are shared out; its content tells the rest."""


@dataclass(frozen=True)
class Answers:
    """What came of some paths.

    Args:
        predictions: in the order of the paths, sorted within a folder.
        skipped: files that are no readable pictures.
        ignored: number of files that are never pictures (`.DS_Store`, `Thumbs.db`, ...) and were passed over.
    """

    predictions: tuple[PicturePrediction, ...]
    skipped: tuple[Skipped, ...]
    ignored: int


def predict(
    model: str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    topk: int = 3,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Answers:
    """Classify pictures: files, folders and archives of them.

    Args:
        model: a run folder, a model file, or the name of a network with published weights.
        topk: classes to name for each picture.
        max_pixels: larger pictures are not decoded.
        threads: None takes one for each processor this process may use.

    Raises:
        UsageError: a path does not exist, or the model's name is unknown.
        RunError: the run has no model file.

    Example:
        >>> convscope.predict("efficientnet_lite0", "photos")  # doctest: +SKIP
    """
    if topk < 1:
        raise UsageError(f"topk {topk} is too small; --topk takes 1 or more")
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    file = find_model_file(str(model), on_progress)
    single = len(given) == 1 and given[0].is_file() and given[0].suffix.lower() not in ARCHIVE_SUFFIXES
    inference_threads, batches = threads_for(1 if single else None)
    with ThreadPoolExecutor(1, thread_name_prefix="session") as pool:
        session = pool.submit(load_session, file, threads=inference_threads)
        from convscope.data.layout import Listing  # what reads pictures: a tenth of a second, as long as the session
        from convscope.data.paths import open_paths
        from convscope.engine import make_engine, predict_entries

        engine = make_engine(session.result(), file)
    listing = Listing()
    predictions: list[PicturePrediction] = []
    with open_paths(given, listing) as entries:
        for item in predict_entries(engine, entries, topk=topk, max_pixels=max_pixels, threads=threads or batches):
            if isinstance(item, Skipped):
                listing.skipped.append(item)
            else:
                predictions.append(item)
            on_progress(Progress("predicting", len(predictions), None))
    return Answers(tuple(predictions), tuple(listing.skipped), listing.ignored)


def find_model_file(model: str, on_progress: OnProgress = ignore_progress) -> Path:
    """Return the model file of a run folder, a path, or a network with published weights, which is made if need be.

    Raises:
        UsageError, WeightsError, RunError: there is none, and none can be made.
    """
    path = Path(model)
    if path.is_dir():
        return path / MODEL_FILE
    if path.is_file():
        return path
    if path.suffix == ".onnx" or (len(path.parts) > 1 and path.parts[0] not in ("timm", "torchvision")):
        raise RunError(f"no run folder or model file {model!r}; `convscope runs` lists the runs here")
    name = f"{model.replace('/', '-')}-{__version__}.onnx"
    cached = cache_folder("models", otherwise="name a run folder or a model file") / name
    if not cached.is_file():
        on_progress(Progress(f"writing {model} as a model file, once", 0, None))
        from convscope.exporting.model_file import export_published

        export_published(model, cached, on_progress)
    return cached
