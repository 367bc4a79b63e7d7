"""`evaluate`: a finished run measured on its test split, or on other data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.batches import Preprocessing
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.data.splits import Splits
from convscope.device import choose_device, configure_threads, process_unchanged
from convscope.errors import DataError
from convscope.evaluation.metrics import compute_metrics
from convscope.evaluation.predict import predict_indices, predictions_of
from convscope.models.saved import SavedModel, load_model
from convscope.progress import OnProgress, ignore_progress
from convscope.results.run import RunResult
from convscope.run.configure import make_config
from convscope.run.prepare import load_run_data
from convscope.run.record import without_leaked, write_evaluation
from convscope.storage.files import read_json
from convscope.storage.run_folder import locked, read_config


@process_unchanged()
def evaluate(
    run: str | Path, data: str | None = None, *, device: str = "auto", on_progress: OnProgress = ignore_progress
) -> RunResult:
    """Measure a finished run's network on the test split of its data, or on another data set.

    With `data` None results.json, predictions.csv and mistakes.csv are written again; for other data they go to
    RUN/evaluations/NAME. Other data are used whole unless they have a test split of their own, and must have the
    same classes.
    """
    run = Path(run)
    saved, config = load_model(run), read_config(run)
    old = read_json(run / "results.json")
    images, indices, split, folder, splits = _evaluation_data(run, config, saved, data, on_progress)
    chosen = choose_device(device)
    configure_threads(config.compute.threads)
    preprocessing = Preprocessing(saved.mean, saved.std)
    logits = predict_indices(saved.network.to(chosen), images, indices, preprocessing, chosen)
    predictions = predictions_of(images, indices, logits)
    result = RunResult(
        run=str(run),
        model=saved.name,
        data=images.name,
        seed=config.train.seed,
        split=split,
        metrics=compute_metrics(predictions),
        num_params=old["num_params"],
    )
    if splits is not None:  # the run's own data: what is known of its training holds
        leaked, without = without_leaked(images, splits, split, predictions)
        known = {key: old[key] for key in _FIELDS_OF_TRAINING if key in old}
        result = replace(result, leaked_images=leaked, accuracy_without_leaked=without, **known)
    with locked(run):
        folder.mkdir(parents=True, exist_ok=True)
        write_evaluation(folder, predictions, result)
    return result


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


def _evaluation_data(
    run: Path, config: RunConfig, saved: SavedModel, data: str | None, on_progress: OnProgress
) -> tuple[ImageSet, NDArray[np.int64], str, Path, Splits | None]:
    """Return images, which of them to use, the name of that split, the folder for the results, the run's own split."""
    if data is None:
        images, splits = load_run_data(run, config, on_progress)
        split = "test" if len(splits.test) else "validation"
        return images, getattr(splits, split), split, run, splits
    channels, height, _ = saved.input_shape
    images = load_images(
        make_config(
            data,
            image_size=height,
            gray=channels == 1,
            data_dir=config.data.data_dir,
            resize=config.data.resize,
            crop_fraction=config.data.crop_fraction,
            interpolation=config.data.interpolation,
        ).data,
        on_progress,
    )
    if images.shape != saved.input_shape:
        raise DataError(f"{images.name} has images of {images.shape}, the network takes {saved.input_shape}")
    if images.class_names != saved.class_names:
        raise DataError(
            f"{images.name} has the classes {', '.join(images.class_names)}; the network knows "
            f"{', '.join(saved.class_names)}. Evaluation needs the same classes under the same names"
        )
    own_test = np.flatnonzero(np.array(images.source_splits) == "test")
    indices = own_test if len(own_test) else np.arange(len(images))
    folder = run / "evaluations" / images.name.replace("/", "-")
    return images, indices, "test" if len(own_test) else "all", folder, None
