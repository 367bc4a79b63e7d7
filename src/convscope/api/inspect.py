"""Looking inside, wired together: a network from a run or by name, an image, the inspections, the page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope import __version__
from convscope.config import MAX_PIXELS
from convscope.data.batches import Preprocessing
from convscope.data.dataset import ImageSet
from convscope.data.decode.decode import decode_rgb
from convscope.data.decode.files import MAX_FILE_BYTES, unreadable
from convscope.data.decode.resize import Resizing, resize_image
from convscope.data.names import printable
from convscope.data.splits import Splits
from convscope.device import choose_device, configure_threads, process_unchanged
from convscope.errors import DataError, UsageError
from convscope.evaluation.predict import predict_indices
from convscope.evaluation.records import shown_order
from convscope.inference.model_file import fit_for, load_published
from convscope.inspection import INSPECTIONS, Evidence, Subject
from convscope.inspection.feature_maps import layer_calls
from convscope.inspection.hooks import find_call
from convscope.models import count_parameters, find_model
from convscope.models.saved import SavedModel, load_model
from convscope.pages.page import render_page
from convscope.pages.section import Section
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.prediction import Skipped
from convscope.run.own_data import load_run_data
from convscope.run.prepare import calibration_indices
from convscope.storage.files import read_limited, write_bytes
from convscope.storage.run_folder import read_config

TOPK = 3
"""Classes that are named for an image."""


@dataclass(frozen=True)
class Inspected:
    """What was looked at and where the page is; `convscope inspect --json` prints the same.

    Args:
        topk: the most probable classes of the image, {"label", "probability"} each.
        layers: {"name", "kind", "output_shape"} of each, in order; names are what `layer` takes.
        sections: name of each inspection -> why there was nothing to see, or None.
    """

    page: str
    model: str
    image: str
    label: str
    probability: float
    topk: tuple[dict[str, Any], ...]
    layers: tuple[dict[str, Any], ...]
    sections: dict[str, str | None]


@process_unchanged()
def inspect(
    target: str | Path,
    *,
    image: str | Path | None = None,
    layer: str | None = None,
    channel: int | None = None,
    moved_to: str | Path | None = None,
    out: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    device: str = "auto",
    on_progress: OnProgress = ignore_progress,
) -> Inspected:
    """Look inside a network while it sees an image, and write what is seen as one HTML page.

    Args:
        target: run folder of a finished run, or the name of a network with published weights.
        image: file of any image; None looks at the image that the run's report shows inside, and at its data as well.
        layer: name of a layer or block to look at closely; None shows all layers.
        moved_to: where the run's data are now, if they were moved.
        max_pixels, allow_truncated: which images are accepted, see DataConfig.
        out: the page to write; None is inspection.html in the run folder, or inspection-MODEL.html here.

    Raises:
        UsageError: the layer or model is unknown, or a name is given without an image.
        DataError: the image cannot be read, or the data of the run have changed.
        WeightsError: the published weights are not there.
    """
    run = Path(target)
    is_run = (run / "model.json").exists() or run.is_dir()
    if image is None and not is_run:
        raise UsageError(f"{target} is not a run folder; for a network by name, give an image with --image PATH")
    page = Path(out) if out is not None else run / "inspection.html" if is_run else Path(f"inspection-{run.name}.html")
    configure_threads(None)
    saved, fit = _load_network(target, on_progress, is_run=is_run)
    own_image = None
    if image is not None:
        own_image = _load_image(Path(image), fit, max_pixels=max_pixels, allow_truncated=allow_truncated)
    subject, name = _subject(saved, run, own_image, choose_device(device), moved_to, on_progress)
    subject = replace(subject, layer=layer, channel=channel)
    name = str(image or name)
    calls = layer_calls(subject)
    if layer is not None:
        find_call(calls, layer)  # reports an unknown name before anything is computed
    sections = compute_sections(subject, on_progress)
    write_bytes(page, render_page(sections, **_heading(saved, subject, name)))
    best = np.argsort(-subject.probabilities, kind="stable")[:TOPK]
    topk = tuple({"label": saved.class_names[k], "probability": float(subject.probabilities[k])} for k in best)
    layers = tuple(
        {"name": call.name, "kind": call.kind, "output_shape": list(call.output.shape[1:])} for call in calls
    )
    return Inspected(
        page=str(page),
        model=saved.name,
        image=name,
        **topk[0],
        topk=topk,
        layers=layers,
        sections={name: section.missing or None for name, section in sections.items()},
    )


def _subject(
    saved: SavedModel,
    run: Path,
    image: NDArray[np.uint8] | None,
    device: torch.device,
    moved_to: str | Path | None,
    on_progress: OnProgress,
) -> tuple[Subject, str]:
    """Return what is looked at and the id of the image; without an image the one that the run's report shows."""
    network, preprocessing = saved.network.to(device), Preprocessing(saved.mean, saved.std)
    if image is not None:
        return Subject(network, preprocessing, saved.class_names, image, device), ""
    config = read_config(run)
    data = load_run_data(run, config, on_progress, verb="inspect", moved_to=moved_to)
    evidence = _evidence(data, network, preprocessing, device, on_progress)
    images, shown = evidence.images, evidence.indices[shown_order(len(evidence.indices), config.train.seed)[0]]
    subject = Subject(network, preprocessing, saved.class_names, images.images[shown], device, evidence=evidence)
    return subject, images.ids[shown]


def compute_sections(subject: Subject, on_progress: OnProgress) -> dict[str, Section]:
    """Return what every inspection for which enough is known finds, in the order of the table."""
    sections = {}
    for name, inspection in INSPECTIONS.items():
        if inspection.needs == "evidence" and subject.evidence is None:
            continue
        on_progress(Progress(f"inspecting: {inspection.title.lower()}", 0, None))
        try:
            sections[name] = Section(inspection.title, inspection.intro, inspection.inspect(subject))
        except UsageError as error:
            sections[name] = Section(inspection.title, inspection.intro, missing=f"Nothing to see here: {error}.")
    return sections


def _evidence(
    data: tuple[ImageSet, Splits],
    network: nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
    on_progress: OnProgress,
) -> Evidence:
    """Return the data of a run and what its network says of them."""
    images, splits = data
    split = "test" if len(splits.test) else "validation"
    on_progress(Progress(f"evaluating on the {split} split", 0, None))
    validation = calibration_indices(splits)
    logits, validation_logits = (
        predict_indices(network, images, indices, preprocessing, device)
        for indices in (getattr(splits, split), validation)
    )
    return Evidence(images, splits, split, logits, validation, validation_logits)


def _load_network(target: str | Path, on_progress: OnProgress, *, is_run: bool) -> tuple[SavedModel, Resizing]:
    """Return the network of a run, or a published one, and how an image becomes its input."""
    if is_run:
        saved = load_model(Path(target))
        return saved, fit_for(saved, read_config(Path(target)).data)
    if find_model(str(target)).preprocessing is None:
        raise UsageError(
            f"{str(target)!r} is neither a run folder nor a network with published weights; train it first"
        )
    return load_published(str(target), on_progress)


def _load_image(path: Path, fit: Resizing, *, max_pixels: int, allow_truncated: bool) -> NDArray[np.uint8]:
    """Return an image of one's own at the size that the network takes, uint8 [H, W, C].

    Raises:
        DataError: it cannot be read; says why and what helps.
    """
    try:
        verdict = decode_rgb(
            read_limited(path, MAX_FILE_BYTES), path.name, max_pixels=max_pixels, allow_truncated=allow_truncated
        )
    except (OSError, MemoryError) as error:
        verdict = unreadable(path.name, error)
    if isinstance(verdict, Skipped):
        raise DataError(f"{verdict.file}: {verdict.reason}; {verdict.remedy}")
    return resize_image(verdict.image, fit)


def _heading(saved: SavedModel, subject: Subject, name: str) -> dict[str, str]:
    image, evidence = printable(Path(name).name), subject.evidence
    label, probability = saved.class_names[subject.predicted], subject.probabilities[subject.predicted]
    prediction = f"Predicted class: {label}, with probability {100 * probability:.1f} %"
    if evidence is not None:
        image = f"{evidence.split} image {image}"
        prediction += f"; actual class: {saved.class_names[evidence.images.labels[evidence.images.ids.index(name)]]}"
    shape = " × ".join(map(str, saved.input_shape))
    return {
        "title": f"Inside {saved.name}: {image}",
        "headline": prediction,
        "origin": f"{count_parameters(saved.network):,} parameters, input {shape}, {len(saved.class_names)} classes, "
        f"convscope {__version__}",
    }
