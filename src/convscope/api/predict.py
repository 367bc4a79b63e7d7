"""`predict` as a function: it finds the model and the images, and the engine does the rest. Imports no torch.

The one exception: a network with published weights is exported as a model file when it is first used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from convscope.config import MAX_PIXELS, THREADS_BELOW, check_range
from convscope.errors import RunError
from convscope.inference.session import MODEL_FILE, load_session, sealed, start_session, threads_for
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.prediction import ImagePrediction, Skipped
from convscope.storage.cache import cached_file, save_cached

if TYPE_CHECKING:
    from convscope.inference.engine import Engine

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2")
"""A single file with another suffix counts as one image when threads are assigned; whatever it is, it is read."""


@dataclass(frozen=True)
class PredictionResult:
    """Predictions for some paths.

    Args:
        predictions: in the order of the paths, sorted within a folder.
        skipped: files that are no readable images.
        ignored: number of files that are never images (`.DS_Store`, `Thumbs.db`, ...).
    """

    predictions: tuple[ImagePrediction, ...]
    skipped: tuple[Skipped, ...]
    ignored: int


def predict(
    model: str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    topk: int = 3,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    threads: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> PredictionResult:
    """Classify images: files, folders and archives of them.

    Args:
        model: a run folder, a model file, or the name of a network with published weights.
        topk: classes to name for each image.
        max_pixels: larger images are not decoded.
        allow_truncated: truncated files are accepted.
        threads: that read and classify; None takes one for each processor this process may use.

    Raises:
        UsageError: a path does not exist, or the model's name is unknown.
        RunError: the run has no model file, or another version of convscope wrote it.

    Example:
        >>> convscope.predict("efficientnet_lite0", "photos")  # doctest: +SKIP
    """
    check_range("topk", topk, least=1)
    check_range("threads", threads, least=1, below=THREADS_BELOW)
    check_range("max_pixels", max_pixels, least=1)
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    single = len(given) == 1 and given[0].is_file() and given[0].suffix.lower() not in ARCHIVE_SUFFIXES
    inference_threads, batches = threads_for(1 if single else None, threads)
    engine = _load_engine(str(model), inference_threads, on_progress)
    from convscope.data.decode.files import Listing
    from convscope.data.sources.image_files import open_paths
    from convscope.inference.engine import predict_entries

    listing = Listing()
    predictions: list[ImagePrediction] = []
    with open_paths(given, listing) as entries:
        found = predict_entries(
            engine,
            entries,
            topk=topk,
            max_pixels=max_pixels,
            allow_truncated=allow_truncated,
            threads=batches,
        )
        for item in found:
            if isinstance(item, Skipped):
                listing.skipped.append(item)
            else:
                predictions.append(item)
            on_progress(Progress("predicting", len(predictions) + len(listing.skipped), None))
    return PredictionResult(tuple(predictions), tuple(listing.skipped), listing.ignored)


def _load_engine(model: str, threads: int, on_progress: OnProgress) -> Engine:
    """Return the model of a run folder, a model file, or a network with published weights, exported on first use.

    Raises:
        UsageError, WeightsError, RunError: there is none, and none can be made.
    """
    path = Path(model)
    if path.is_dir():
        from convscope.storage.run_start import check_schema

        check_schema(path)
        return _start_engine(path / MODEL_FILE, threads)
    if path.is_file():
        return _start_engine(path, threads)
    if path.suffix == ".onnx" or (len(path.parts) > 1 and path.parts[0] not in ("timm", "torchvision")):
        raise RunError(f"no run folder or model file {model!r}; `convscope runs` lists the runs here")
    key = published_key(model)
    cached = cached_file("models", key)
    if cached is not None:
        with suppress(RunError):  # damaged: exported again, and the file is replaced
            return _start_engine(cached, threads, is_sealed=True)
    on_progress(Progress(f"writing {model} as a model file, once", 0, None))
    from convscope.inference.engine import make_engine
    from convscope.inference.model_file import export_published

    content = export_published(model, on_progress)
    if not save_cached("models", key, sealed(content)):
        on_progress(Progress("the cache folder cannot be written, so the model file is made again next time", 0, None))
    return make_engine(start_session(content, threads=threads), path)


def _start_engine(file: Path, threads: int, *, is_sealed: bool = False) -> Engine:
    with ThreadPoolExecutor(1, thread_name_prefix="session") as pool:
        session = pool.submit(load_session, file, threads=threads, is_sealed=is_sealed)
        import convscope.data.sources.image_files  # noqa: F401  what reads images takes as long to import as a session to start
        from convscope.inference.engine import make_engine

        return make_engine(session.result(), file)


def published_key(model: str) -> str:
    """Return the cache key of a network with published weights; it changes with all that its model file depends on.

    The weights are named by hash or release in our own sources and in those of torchvision and timm, and the graph is
    written by our sources and by torch: so the key is a hash of our sources and of the libraries' version files.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for place in ("inference", "models", "data/decode", "torch_internals.py"):
        path = package / place
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(source.read_bytes())
    for library in ("torch", "torchvision", "timm", "onnx"):
        spec = find_spec(library)  # looked up, not imported
        if spec is not None and spec.origin is not None:
            with suppress(FileNotFoundError):
                digest.update(Path(spec.origin).with_name("version.py").read_bytes())
    return f"{model.replace('/', '-')}-{digest.hexdigest()[:16]}"
