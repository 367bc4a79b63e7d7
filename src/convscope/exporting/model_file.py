"""Model files and their certificates: of a run at its end or later, and of a network with published weights."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import DataConfig, ModelConfig
from convscope.data.batches import Preprocessing
from convscope.data.image_set import ImageSet
from convscope.data.intake import Fit, fit_of
from convscope.data.paths import read_members
from convscope.engine import COSINE, Engine, ModelCard, UnknownRule
from convscope.errors import ExportError, UsageError
from convscope.exporting.onnx_file import to_onnx
from convscope.exporting.parity import PICTURES, compare
from convscope.exporting.unknown import Centres, Choice
from convscope.models import build_model, find_model
from convscope.models.pretrained import fetch_weights, pretrained_class_names
from convscope.models.saved import SavedModel, load_model
from convscope.onnx_session import MODEL_FILE, start_session
from convscope.progress import OnProgress, ignore_progress
from convscope.randomness import permutation
from convscope.results import Certificate
from convscope.runs import read_config, read_json, write_array, write_bytes, write_json

CERTIFICATE_FILE = "certificate.json"
CENTRES_FILE = "centres.npy"
"""What `unknown` is measured from, kept so that the model file can be written anew."""


def write_model_file(path: Path, saved: SavedModel, card: ModelCard, centres: Centres | None = None) -> bytes:
    """Write a network as one ONNX file and return its content.

    Args:
        centres: that the card's rule measures from, None where it goes by the logits.

    Raises:
        ExportError: the network has no ONNX form.
        RunError: the file cannot be written.
    """
    content = to_onnx(saved.network, saved.input_shape, saved.mean, saved.std, card, centres)
    write_bytes(path, content)
    return content


def card_of(saved: SavedModel, data: DataConfig, unknown: UnknownRule | None) -> ModelCard:
    """Return the card of a network that was trained on such data."""
    return ModelCard(saved.name, saved.class_names, fit_for(saved, data), unknown)


def fit_for(saved: SavedModel, data: DataConfig) -> Fit:
    """Return how pictures are brought to the size that a network takes which was trained on such data."""
    channels, height, _ = saved.input_shape
    return replace(fit_of(data), image_size=height, gray=channels == 1)


def write_certified(
    run: Path,
    saved: SavedModel,
    data: DataConfig,
    images: ImageSet,
    *,
    tested: NDArray[np.int64],
    test_kept: float | None,
    unknown: Choice | None,
    device: torch.device,
    most_at_once: int | None = None,
    too_large: bool = False,
) -> Certificate:
    """Write RUN/model.onnx and RUN/certificate.json; a network without an ONNX form gets a certificate that says so.

    Args:
        saved: the trained network, on the device.
        tested: indices of the test pictures, some of which are compared.
        test_kept: fraction of them that the rule keeps.
        most_at_once: so many pictures at most go through the network at a time.
        too_large: there is no memory to write the file, and the certificate says so.
    """
    card = card_of(saved, data, None if unknown is None else unknown.rule)
    centres = None if unknown is None else unknown.centres
    if centres is not None:
        write_array(run / CENTRES_FILE, centres)
    compared = np.sort(tested[permutation(len(tested), "certificate")[:PICTURES]])
    contents = read_members(Path(data.source), {images.ids[i] for i in compared}) if Path(data.source).exists() else {}
    try:
        if too_large:
            raise ExportError("it would take more than the limit on memory; `convscope export RUN` writes it later")
        content = write_model_file(run / MODEL_FILE, saved, card, centres)
        engine = Engine(card, start_session(content, threads=1))
        preprocessing = Preprocessing(saved.mean, saved.std)
        certificate = compare(saved.network, preprocessing, device, engine, images, compared, contents, most_at_once)
    except ExportError as error:
        (run / MODEL_FILE).unlink(missing_ok=True)
        certificate = Certificate(failed=str(error))
    rule = None if unknown is None else asdict(unknown.rule) | {"test_kept": test_kept, "test_n": len(tested)}
    tree = {"file": MODEL_FILE, **asdict(certificate), "agrees": certificate.agrees, "unknown": rule}
    write_json(run / CERTIFICATE_FILE, tree)
    return certificate


def export_run(run: Path, path: Path | None = None) -> Path:
    """Write the model file of a finished run anew, into the run folder or to another path, and return where it is."""
    saved, data = load_model(run), read_config(run).data
    path = path or run / MODEL_FILE
    rule = _recorded_rule(run)
    centres = np.load(run / CENTRES_FILE, allow_pickle=False) if rule is not None and rule.score == COSINE else None
    write_model_file(path, saved, card_of(saved, data, rule), centres)
    return path


def export_published(name: str, path: Path, on_progress: OnProgress = ignore_progress) -> None:
    """Write a network of the zoo with its published weights and its own classes.

    Raises:
        UsageError, WeightsError: as `load_published`.
    """
    saved, fit = load_published(name, on_progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_model_file(path, saved, ModelCard(name, saved.class_names, fit))


def load_published(name: str, on_progress: OnProgress = ignore_progress) -> tuple[SavedModel, Fit]:
    """Return a network of the zoo with its published weights, its own classes, and how its pictures are fitted.

    Raises:
        UsageError: the name is unknown, or nobody publishes weights for it.
        WeightsError: the weights are missing or cannot be fetched.
    """
    spec, config = find_model(name), ModelConfig(name=name, pretrained=True)
    fetch_weights(config, on_progress)
    published = spec.preprocessing
    if published is None:
        raise UsageError(f"nobody says how pictures are prepared for model {name!r}; train a run on it and name that")
    class_names = pretrained_class_names(name)
    saved = SavedModel(
        network=build_model(config, spec.native_shape, len(class_names)).eval(),
        name=name,
        input_shape=spec.native_shape,
        class_names=class_names,
        mean=published.mean,
        std=published.std,
    )
    fit = Fit(
        image_size=published.image_size,
        gray=False,
        resize=published.resize,
        crop_fraction=published.crop_fraction,
        interpolation=published.interpolation,
    )
    return saved, fit


def _recorded_rule(run: Path) -> UnknownRule | None:
    """Return the rule that a run chose at its end; None where it has none, or was finished by an older version."""
    path = run / CERTIFICATE_FILE
    rule: dict[str, Any] | None = read_json(path)["unknown"] if path.exists() else None
    return None if rule is None else UnknownRule(**{key: rule[key] for key in ("score", "threshold", "kept", "n")})
