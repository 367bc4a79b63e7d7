"""Looking inside, wired together: a network from a run or by name, a picture, the inspections, the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope import __version__
from convscope.config import MAX_PIXELS
from convscope.data.batches import Preprocessing
from convscope.data.intake import Fit, decode_picture, fit_picture, printable, unreadable
from convscope.device import choose_device, configure_threads
from convscope.errors import DataError, UsageError
from convscope.exporting.model_file import fit_for, load_published
from convscope.inspection import INSPECTIONS, Evidence, Subject
from convscope.inspection.feature_maps import layer_calls
from convscope.inspection.hooks import find_call
from convscope.models import count_parameters, find_model
from convscope.models.saved import SavedModel, load_model
from convscope.pictures import Skipped
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.report.page import Heading, render_page
from convscope.report.section import Section
from convscope.runs import read_config, write_bytes
from convscope.workflow import calibration_indices, load_run_data, predict_indices

TOPK = 3
"""Classes that are named for a picture."""


@dataclass(frozen=True)
class Inspected:
    """What was looked at and where the page is; `convscope inspect --json` prints the same.

    Args:
        topk: the most probable classes of the picture, {"label", "probability"} each.
        layers: {"name", "kind", "output_shape"} of each, in order; names are what `layer` takes.
        sections: name of each inspection -> why there was nothing to see, or None.
    """

    page: str
    model: str
    picture: str
    label: str
    probability: float
    topk: tuple[dict[str, Any], ...]
    layers: tuple[dict[str, Any], ...]
    sections: dict[str, str | None]


def inspect(
    target: str | Path,
    *,
    image: str | Path | None = None,
    layer: str | None = None,
    channel: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    on_progress: OnProgress = ignore_progress,
) -> Inspected:
    """Look inside a network while it sees a picture, and write what is seen as one HTML page.

    Args:
        target: run folder of a finished run, or the name of a network with published weights.
        image: file of any picture; None looks at the first test picture of the run, and at its data as well.
        layer: name of a layer or block to look at closely; None shows all layers.
        out: the page to write; None is inspection.html in the run folder, or inspection-MODEL.html here.

    Raises:
        UsageError: the layer or model is unknown, or a name is given without a picture.
        DataError: the picture cannot be read, or the data of the run have changed.
        WeightsError: the published weights are not there.
    """
    run = Path(target)
    is_run = (run / "model.json").exists() or run.is_dir()
    if image is None and not is_run:
        raise UsageError(f"{target} is no run folder; for a network by name, give a picture with --image PATH")
    saved, fit = _from_run(run) if is_run else _from_name(str(target), on_progress)
    chosen = choose_device(device)
    configure_threads(None)
    network, preprocessing = saved.network.to(chosen), Preprocessing(saved.mean, saved.std)
    evidence, name = None, str(image)
    if image is None:
        evidence = _evidence(run, network, preprocessing, chosen, on_progress)
        name = evidence.images.ids[evidence.indices[0]]
        picture = evidence.images.images[evidence.indices[0]]
    else:
        picture = _load_picture(Path(image), fit)
    subject = Subject(
        network=network,
        preprocessing=preprocessing,
        class_names=saved.class_names,
        picture=picture,
        device=chosen,
        layer=layer,
        channel=channel,
        evidence=evidence,
    )
    calls = layer_calls(subject)
    if layer is not None:
        find_call(calls, layer)  # a misspelled name is told at once
    sections = compute_sections(subject, on_progress)
    page = Path(out) if out is not None else run / "inspection.html" if is_run else Path(f"inspection-{run.name}.html")
    write_bytes(page, render_page(_heading(saved, subject, name), sections))
    best = np.argsort(-subject.probabilities, kind="stable")[:TOPK]
    topk = tuple({"label": saved.class_names[k], "probability": float(subject.probabilities[k])} for k in best)
    return Inspected(
        page=str(page),
        model=saved.name,
        picture=name,
        label=saved.class_names[subject.predicted],
        probability=float(subject.probabilities[subject.predicted]),
        topk=topk,
        layers=tuple(
            {"name": call.name, "kind": call.kind, "output_shape": list(call.output.shape[1:])} for call in calls
        ),
        sections={name: section.missing or None for name, section in sections.items()},
    )


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
    run: Path, network: nn.Module, preprocessing: Preprocessing, device: torch.device, on_progress: OnProgress
) -> Evidence:
    """Return the data of a run and what its network says of them."""
    images, splits = load_run_data(run, read_config(run), on_progress)
    part = "test" if len(splits.test) else "validation"
    on_progress(Progress(f"evaluating on the {part} part", 0, None))
    validation = calibration_indices(splits)
    logits, validation_logits = (
        predict_indices(network, images, indices, preprocessing, device)
        for indices in (getattr(splits, part), validation)
    )
    return Evidence(images, splits, part, logits, validation, validation_logits)


def _from_run(run: Path) -> tuple[SavedModel, Fit]:
    saved = load_model(run)
    return saved, fit_for(saved, read_config(run).data)


def _from_name(name: str, on_progress: OnProgress) -> tuple[SavedModel, Fit]:
    if find_model(name).preprocessing is None:
        raise UsageError(f"{name!r} is no run folder, and no network with published weights; train it first")
    return load_published(name, on_progress)


def _load_picture(path: Path, fit: Fit) -> NDArray[np.uint8]:
    """Return a picture of one's own at the size that the network takes, uint8 [H, W, C].

    Raises:
        DataError: it cannot be read; says why and what helps.
    """
    try:
        verdict = decode_picture(path.read_bytes(), path.name, max_pixels=MAX_PIXELS)
    except (OSError, MemoryError) as error:
        verdict = unreadable(path.name, error)
    if isinstance(verdict, Skipped):
        raise DataError(f"{verdict.file}: {verdict.reason}; {verdict.remedy}")
    return fit_picture(verdict.image, fit)


def _heading(saved: SavedModel, subject: Subject, name: str) -> Heading:
    picture, evidence = printable(Path(name).name), subject.evidence
    label, probability = saved.class_names[subject.predicted], subject.probabilities[subject.predicted]
    said = f"The network says {label}, with probability {100 * probability:.1f} %"
    if evidence is not None:
        picture = f"{evidence.part} picture {picture}"
        said += f"; the actual class is {saved.class_names[evidence.images.labels[evidence.indices[0]]]}"
    shape = " × ".join(map(str, saved.input_shape))
    return Heading(
        title=f"Inside {saved.name}: {picture}",
        headline=said,
        origin=f"{count_parameters(saved.network):,} parameters, input {shape}, {len(saved.class_names)} classes, "
        f"convscope {__version__}",
    )
