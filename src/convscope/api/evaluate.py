"""`evaluate`: a finished run measured on its test split, or on other data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.batches import Preprocessing
from convscope.data.dataset import ImageSet
from convscope.device import choose_device, configure_threads, process_unchanged
from convscope.errors import UsageError
from convscope.evaluation.metrics import accuracy_without, baseline_of, compute_metrics
from convscope.evaluation.predict import predict_indices, predictions_of
from convscope.models.saved import SavedModel, load_model
from convscope.progress import OnProgress, ignore_progress
from convscope.results.run import Accuracy, OtherData, Predictions, RunResult
from convscope.run.configure import data_source
from convscope.run.other_data import class_notes, evaluation_folder, find_trained_on, load_other_data
from convscope.run.own_data import load_run_data
from convscope.run.record import without_leaked, write_evaluation, write_skipped
from convscope.storage.files import read_json
from convscope.storage.run_folder import locked, read_config
from convscope.storage.run_start import read_start


@process_unchanged()
def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    moved_to: str | Path | None = None,
    max_pixels: int | None = None,
    allow_truncated: bool | None = None,
    device: str = "auto",
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Measure a finished run's network on the test split of its data, or on other data.

    Without `data`, results.json, predictions.csv and mistakes.csv are written again. For other data they go to
    RUN/evaluations/NAME, with skipped.csv. Other data are used whole unless they have a test split of their own;
    classes may be lacking, and images of classes that the network does not know are skipped. How many of them the run
    was trained on is counted.

    Args:
        data: a data set's name, or the path of a folder, archive or CSV; None is the run's own data.
        moved_to: where the run's own data are now, if they were moved.
        max_pixels, allow_truncated: which files of other data are accepted; None: as when the run was trained.

    Raises:
        ConvscopeError: see errors.py.
    """
    run = Path(run)
    if data is not None and moved_to is not None:
        raise UsageError(f"{data} is other data, and {moved_to} the run's own in a new place; give one of them")
    saved, config = load_model(run), read_config(run)
    if data is None:
        return _on_own(run, config, saved, moved_to, device, on_progress)
    images = load_other_data(
        run, config, saved, str(data), on_progress, max_pixels=max_pixels, allow_truncated=allow_truncated
    )
    return _on_other(run, config, saved, images, data_source(str(data)), device, on_progress)


def _on_own(
    run: Path, config: RunConfig, saved: SavedModel, moved_to: str | Path | None, device: str, on_progress: OnProgress
) -> RunResult:
    old = read_json(run / "results.json")
    images, splits = load_run_data(run, config, on_progress, verb="evaluate", moved_to=moved_to)
    split = "test" if len(splits.test) else "validation"
    predictions = _predict(config, saved, images, getattr(splits, split), device)
    leaked, without = without_leaked(images, splits, split, predictions)
    known = {key: old[key] for key in _FIELDS_OF_TRAINING if key in old}
    result = _measure(run, config, saved, images.name, split, predictions)
    result = replace(result, leaked_images=leaked, accuracy_without_leaked=without, **known)
    with locked(run):
        write_evaluation(run, predictions, result)
    return result


def _on_other(
    run: Path,
    config: RunConfig,
    saved: SavedModel,
    images: ImageSet,
    source: str,
    device: str,
    on_progress: OnProgress,
) -> RunResult:
    own_test = np.flatnonzero(np.array(images.source_splits) == "test")
    indices = own_test if len(own_test) else np.arange(len(images))
    trained_on, notes = find_trained_on(run, config, images, indices, on_progress)
    predictions = _predict(config, saved, images, indices, device)
    seen = {images.ids[i] for i in indices[trained_on]}
    result = _measure(run, config, saved, images.name, "test" if len(own_test) else "all", predictions)
    other = OtherData(source, images.skipped, len(seen), _unseen(predictions, seen, result.accuracy))
    result = replace(result, notes=(*class_notes(images, indices), *notes), other_data=other)
    folder = evaluation_folder(run, images, source)
    with locked(run):
        folder.mkdir(parents=True, exist_ok=True)
        write_skipped(folder, images)
        write_evaluation(folder, predictions, result)
    return result


def _unseen(predictions: Predictions, seen: set[str], accuracy: Accuracy) -> Accuracy | None:
    return accuracy_without(predictions, seen) if seen else accuracy


def _predict(
    config: RunConfig, saved: SavedModel, images: ImageSet, indices: NDArray[np.int64], device: str
) -> Predictions:
    chosen = choose_device(device)
    configure_threads(config.compute.threads)
    preprocessing = Preprocessing(saved.mean, saved.std)
    logits = predict_indices(saved.network.to(chosen), images, indices, preprocessing, chosen)
    return predictions_of(images, indices, logits)


def _measure(
    run: Path, config: RunConfig, saved: SavedModel, data: str, split: str, predictions: Predictions
) -> RunResult:
    """Return what the predictions say; what is known of the training is left out."""
    facts: dict[str, Any] = read_start(run)
    baseline_class, baseline = baseline_of(predictions, facts["data"]["class_counts"]["train"])
    return RunResult(
        run=str(run),
        model=saved.name,
        data=data,
        seed=config.train.seed,
        split=split,
        metrics=compute_metrics(predictions),
        num_params=facts["model"]["num_params"],
        baseline_class=baseline_class,
        baseline_accuracy=baseline,
    )


_FIELDS_OF_TRAINING = (
    "macs",
    "epochs",
    "best_epoch",
    "train_seconds",
    "peak_memory_bytes",
    "fraction_of_peak_flops",
    "split_sha256",
    "notes",
)
