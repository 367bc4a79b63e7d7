"""The second half of a run: train, evaluate, write the model file, the results and the report."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.data.dataset import ImageSet
from convscope.device import (
    keep_freed_memory,
    measure_peak_flops,
    peak_memory_bytes,
    reduced_dtype,
    release_freed_memory,
    return_free_memory,
)
from convscope.evaluation.calibration import calibrate
from convscope.evaluation.metrics import baseline_of, compute_metrics
from convscope.evaluation.predict import ModelOutput, predictions_of
from convscope.evaluation.records import shown_order
from convscope.inference.model_file import write_certified
from convscope.inference.unknown import ClassMeans, choose_rule, mean_directions
from convscope.memory.macs import count_training_flops
from convscope.memory.plan import Plan
from convscope.models.saved import SavedModel, save_model
from convscope.pages.page import build_report
from convscope.progress import OnProgress, Progress
from convscope.results.memory import EVALUATION, MODEL_FILE, REPORT
from convscope.results.run import Certificate, Predictions, RunResult, chosen_by_text
from convscope.run.prepare import Prepared, calibration_indices, class_mean_indices
from convscope.run.record import without_leaked, write_evaluation, write_inside, write_plan, write_shown_thumbnails
from convscope.run.train import train_prepared
from convscope.storage.files import write_json
from convscope.storage.run_start import read_start
from convscope.training.loop import TrainResult


@dataclass(frozen=True)
class _Measured:
    """The output of the trained network for the evaluation split and for the images that calibrate it.

    Args:
        class_means: of training images; None if the network gives no features.
    """

    indices: NDArray[np.int64]
    output: ModelOutput
    calibrating: NDArray[np.int64]
    calibrating_output: ModelOutput
    class_means: ClassMeans | None
    predictions: Predictions


def finish(
    run: Path, prepared: Prepared, plan: Plan, *, report: bool, resume: bool, on_progress: OnProgress
) -> RunResult:
    """Train to the end, evaluate and write all results into the run folder, which the caller locked."""
    (keep_freed_memory if plan.keeps_freed_memory else release_freed_memory)()
    indices, calibrating = getattr(prepared.splits, prepared.evaluation_split), calibration_indices(prepared.splits)
    trained, outputs = train_prepared(
        run, prepared, resume=resume, on_progress=on_progress, planned_bytes=plan.peak_bytes
    )
    on_progress(Progress(f"evaluating on the {prepared.evaluation_split} split", 0, None))
    typical = calibrating[:0]
    if len(calibrating) and prepared.config.compute.memory is None:  # otherwise nothing asks for class means
        typical = class_mean_indices(prepared.images, prepared.splits)
    output, calibrating_output, typical_output = outputs(indices, calibrating, typical)
    predictions = predictions_of(prepared.images, indices, output.logits)
    class_means = _class_means(prepared.images, typical, typical_output)
    measured = _Measured(indices, output, calibrating, calibrating_output, class_means, predictions)
    del outputs  # it holds the features
    peaks = dict(trained.peaks)
    if EVALUATION in peaks:
        peaks[EVALUATION] = peak_memory_bytes(prepared.device)
    if prepared.config.compute.memory is not None:
        release_freed_memory()
    return_free_memory()
    on_progress(Progress("writing model.onnx and comparing it", 0, None))
    certificate = _write_model(run, prepared, plan, measured)
    peaks[MODEL_FILE] = peak_memory_bytes(prepared.device)
    result = _write_results(run, prepared, trained, measured, certificate)
    peaks[REPORT] = peak_memory_bytes(prepared.device)
    write_plan(run, plan, peaks, trained)
    if report:
        on_progress(Progress("writing the report", 0, None))
        build_report(run)
        peaks[REPORT] = peak_memory_bytes(prepared.device)
        write_plan(run, plan, peaks, trained)
    return result


def _class_means(images: ImageSet, indices: NDArray[np.int64], output: ModelOutput) -> ClassMeans | None:
    if output.features is None:
        return None
    return mean_directions(output.features, images.labels[indices], images.num_classes)


def _write_model(run: Path, prepared: Prepared, plan: Plan, measured: _Measured) -> Certificate:
    """Write the weights and the model file, and compare the file with the network."""
    config, images, output = prepared.config, prepared.images, measured.output
    others = measured.calibrating_output
    unknown = choose_rule(others.logits, others.features, measured.class_means)
    test_kept = None
    if unknown is not None:
        test_kept = float((unknown.scores(output.logits, output.features) >= unknown.rule.threshold).mean())
    saved = SavedModel(
        network=prepared.network,
        name=config.model.name,
        stack=config.model.stack,
        head=config.model.head,
        input_shape=images.shape,
        class_names=images.class_names,
        mean=prepared.preprocessing.mean,
        std=prepared.preprocessing.std,
    )
    save_model(run, saved)
    return write_certified(
        run,
        saved,
        config.data,
        images,
        split=prepared.evaluation_split,
        tested=measured.indices,
        test_kept=test_kept,
        unknown=unknown,
        device=prepared.device,
        most_at_once=config.compute.evaluation_batch_size,
        too_large=not plan.model_file,
    )


def _write_results(
    run: Path, prepared: Prepared, trained: TrainResult, measured: _Measured, certificate: Certificate
) -> RunResult:
    """Write the results, the calibration, and the images that the report shows."""
    config, images, split = prepared.config, prepared.images, prepared.evaluation_split
    predictions, recorded = measured.predictions, read_start(run)
    remarks = [certificate.remark] if certificate.remark else []
    leaked, without = without_leaked(images, prepared.splits, split, predictions)
    baseline_class, baseline = baseline_of(predictions, recorded["data"]["class_counts"]["train"])
    warnings = [chosen_by_text(split)] if chosen_by_text(split) else []
    result = RunResult(
        run=str(run),
        model=config.model.name,
        data=images.name,
        seed=config.train.seed,
        split=split,
        metrics=compute_metrics(predictions),
        leaked_images=leaked,
        accuracy_without_leaked=without,
        baseline_class=baseline_class,
        baseline_accuracy=baseline,
        num_params=recorded["model"]["num_params"],
        macs=recorded["model"]["macs"],
        epochs=0 if config.only_head else trained.history[-1].epoch,
        best_epoch=None if config.only_head else trained.best_epoch,
        train_seconds=trained.train_seconds,
        peak_memory_bytes=peak_memory_bytes(prepared.device),
        fraction_of_peak_flops=None if config.frozen else _fraction_of_peak(prepared, trained),
        split_sha256=recorded["split_sha256"],
        notes=(
            *warnings,
            *recorded["data"]["notes"],
            *_data_notes(images),
            *recorded.get("resumed", []),
            *trained.notes,
            *remarks,
        ),
    )
    write_evaluation(run, predictions, result)
    calibration = calibrate(
        split,
        measured.output.logits,
        predictions.labels,
        validation_logits=measured.calibrating_output.logits,
        validation_labels=images.labels[measured.calibrating],
    )
    write_json(run / "calibration.json", asdict(calibration))
    order = shown_order(len(predictions.ids), config.train.seed)
    write_inside(run, prepared, int(measured.indices[order[0]]))
    write_shown_thumbnails(run, images, recorded["data"]["samples"], predictions, order)
    return result


def _data_notes(images: ImageSet) -> list[str]:
    if not images.skipped:
        return []
    files = "1 file was" if len(images.skipped) == 1 else f"{len(images.skipped):,} files were"
    return [f"{files} skipped, {len(images):,} images used; skipped.csv lists reasons and remedies"]


def _fraction_of_peak(prepared: Prepared, trained: TrainResult) -> float | None:
    """Return the fraction of peak FLOPS; None if the peak was measured while something else slowed the machine."""
    images, splits, network, epochs = prepared.images, prepared.splits, prepared.network, len(trained.history)
    flops = epochs * len(splits.train) * count_training_flops(network, images.shape)
    flops += epochs * len(splits.validation) * 2 * prepared.macs
    reduced = reduced_dtype(prepared.device, prepared.config.compute.precision)
    share = flops / trained.train_seconds / measure_peak_flops(prepared.device, reduced or torch.float32)
    return share if share <= 1 else None
