"""Writing model files and their certificates: of a finished run, and of a network with published weights."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import DataConfig, ModelConfig
from convscope.data.batches import Preprocessing
from convscope.data.dataset import ImageSet
from convscope.data.decode.resize import Resizing, resizing_of
from convscope.data.sources.image_files import read_members
from convscope.errors import ExportError, UsageError
from convscope.inference.card import ModelCard, UnknownRule
from convscope.inference.certificate import IMAGES, compare
from convscope.inference.engine import Engine
from convscope.inference.export import to_onnx
from convscope.inference.session import CERTIFICATE_FILE, MODEL_FILE, start_session
from convscope.inference.unknown import COSINE, SCORES, Choice, ClassMeans
from convscope.models import build_model, find_model
from convscope.models.saved import SavedModel, load_model
from convscope.models.zoo.pretrained import fetch_weights, pretrained_class_names
from convscope.progress import OnProgress, ignore_progress
from convscope.results.run import Certificate
from convscope.seeds import permutation
from convscope.storage.files import read_array, read_json, write_array, write_bytes, write_json
from convscope.storage.run_folder import read_config
from convscope.storage.schemas import damaged

CLASS_MEANS_FILE = "class_means.npy"
"""Mean direction of each class, which `unknown` needs; kept so that the model file can be written again."""


def fit_for(saved: SavedModel, data: DataConfig) -> Resizing:
    """Return how to bring images to the input size of a network trained on such data."""
    channels, height, _ = saved.input_shape
    return replace(resizing_of(data), image_size=height, gray=channels == 1)


def write_certified(
    run: Path,
    saved: SavedModel,
    data: DataConfig,
    images: ImageSet,
    *,
    split: str,
    tested: NDArray[np.int64],
    test_kept: float | None,
    unknown: Choice | None,
    device: torch.device,
    most_at_once: int | None = None,
    too_large: bool = False,
) -> Certificate:
    """Write RUN/model.onnx and RUN/certificate.json; without an ONNX form the certificate says why.

    Args:
        saved: the trained network, on the device.
        split: that the results are measured on.
        tested: indices of its images; some of them are compared.
        test_kept: fraction of its images that keep their class under the rule.
        most_at_once: images that may go through the network at a time.
        too_large: there is not enough memory to write the file; the certificate says so.
    """
    rule = None if unknown is None else unknown.rule
    card = ModelCard(saved.name, saved.class_names, fit_for(saved, data), rule)
    class_means = None if unknown is None else unknown.class_means
    if class_means is not None:
        write_array(run / CLASS_MEANS_FILE, class_means)
    compared = np.sort(tested[permutation(len(tested), "certificate")[:IMAGES]])
    contents = read_members(Path(data.source), {images.ids[i] for i in compared}) if Path(data.source).exists() else {}
    try:
        if too_large:
            raise ExportError("it needs more memory than the limit; `export` writes it without one")
        content = to_onnx(saved, card, class_means)
        write_bytes(run / MODEL_FILE, content)
        engine = Engine(card, start_session(content, threads=1))
        preprocessing = Preprocessing(saved.mean, saved.std)
        certificate = compare(saved.network, preprocessing, device, engine, images, compared, contents, most_at_once)
    except ExportError as error:
        (run / MODEL_FILE).unlink(missing_ok=True)
        certificate = Certificate(failed=str(error))
    certificate = replace(certificate, split=split)
    recorded = None if rule is None else asdict(rule) | {"test_kept": test_kept, "test_n": len(tested)}
    tree = {"file": MODEL_FILE, **asdict(certificate), "agrees": certificate.agrees, "unknown": recorded}
    write_json(run / CERTIFICATE_FILE, tree)
    return certificate


def export_run(run: Path, path: Path | None = None) -> Path:
    """Write the model file of a finished run again, to the run folder or another path, and return its path.

    Raises:
        ExportError: the network has no ONNX form.
        RunError: the file cannot be written.
    """
    saved, data = load_model(run), read_config(run).data
    path = path or run / MODEL_FILE
    rule = _recorded_rule(run)
    class_means = None if rule is None or rule.score != COSINE else _read_class_means(run, len(saved.class_names))
    card = ModelCard(saved.name, saved.class_names, fit_for(saved, data), rule)
    write_bytes(path, to_onnx(saved, card, class_means))
    return path


def export_published(name: str, on_progress: OnProgress = ignore_progress) -> bytes:
    """Return the content of the model file of a zoo network with its published weights and its own classes.

    Raises:
        UsageError, WeightsError: as `load_published`.
        ExportError: the network has no ONNX form.
    """
    saved, fit = load_published(name, on_progress)
    return to_onnx(saved, ModelCard(name, saved.class_names, fit))


def load_published(name: str, on_progress: OnProgress = ignore_progress) -> tuple[SavedModel, Resizing]:
    """Return a network of the zoo with published weights and its own classes, and how to fit images to it.

    Raises:
        UsageError: the name is unknown, or no weights are published for it.
        WeightsError: the weights are missing or cannot be downloaded.
    """
    spec, config = find_model(name), ModelConfig(name=name, pretrained=True)
    fetch_weights(config, on_progress)
    published = spec.preprocessing
    if published is None:
        raise UsageError(f"the preprocessing of model {name!r} is not published; train a run on it and name that run")
    class_names = pretrained_class_names(name)
    saved = SavedModel(
        network=build_model(config, spec.native_shape, len(class_names)).eval(),
        name=name,
        input_shape=spec.native_shape,
        class_names=class_names,
        mean=published.mean,
        std=published.std,
    )
    fit = Resizing(
        image_size=published.image_size,
        gray=False,
        resize=published.resize,
        crop_fraction=published.crop_fraction,
        interpolation=published.interpolation,
    )
    return saved, fit


def _recorded_rule(run: Path) -> UnknownRule | None:
    """Return the rule that a run chose at its end; None if it has none."""
    path = run / CERTIFICATE_FILE
    rule: dict[str, Any] | None = read_json(path)["unknown"] if path.exists() else None
    if rule is not None and rule["score"] not in (COSINE, *SCORES):
        raise damaged(f"{path}: unknown.score {rule['score']!r} is not one of {', '.join((COSINE, *SCORES))}")
    return None if rule is None else UnknownRule(**{key: rule[key] for key in ("score", "threshold", "kept", "n")})


def _read_class_means(run: Path, num_classes: int) -> ClassMeans:
    means = read_array(run / CLASS_MEANS_FILE)
    if means.dtype != np.float32 or means.ndim != 2 or len(means) != num_classes or not np.isfinite(means).all():
        raise damaged(
            f"{run / CLASS_MEANS_FILE} holds {means.dtype} {means.shape}, expected finite float32 with a row for each "
            f"of {num_classes} classes"
        )
    return means
