"""A model file on ONNX Runtime: images in, classes out. The image loader is the one that training uses."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.config import MAX_PIXELS
from convscope.data.decode.decode import Decoded, resize_entry
from convscope.data.decode.files import Entry, map_entries
from convscope.data.names import printable
from convscope.errors import RunError
from convscope.inference.card import CARD_KEY, ModelCard, card_from_json
from convscope.inference.session import Session, load_session
from convscope.inference.unknown import COSINE, SCORES, softmax
from convscope.results.prediction import UNKNOWN, ImagePrediction, Skipped

BATCH_BYTES = 2**20
"""Size of a batch as float32; a larger one does not fit into a core's cache and is slower.

EfficientNet-Lite0 on two cores, images a second in two threads of one core each: 187 at a batch of 1, 165 at 4, 155
at 32; 155 in one thread of two cores at a batch of 1.
"""

MAX_BATCH = 64


@dataclass(frozen=True)
class Engine:
    """A model file, ready to predict from any number of threads."""

    card: ModelCard
    session: Session

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, float32 [B, K], of fitted images, uint8 [B, H, W, C].

        Raises:
            RunError: the graph cannot be computed, or gives something else.
        """
        (found,) = self._run(["logits"], images)
        return found

    def outputs(self, images: NDArray[np.uint8]) -> list[tuple[NDArray[np.float32], float | None]]:
        """Return the logits [K] of each image and its similarity to the training images; None without a rule."""
        rule = self.card.unknown
        if rule is None:
            return [(logits, None) for logits in self.logits(images)]
        if rule.score == COSINE:
            logits, similarity = self._run(["logits", "similarity"], images)
            return list(zip(logits, similarity.tolist(), strict=True))
        logits = self.logits(images)
        return list(zip(logits, SCORES[rule.score](logits).tolist(), strict=True))

    def _run(self, names: list[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        try:
            found = [np.asarray(values, np.float32) for values in self.session.run(names, {"images": images})]
        except Exception as error:  # of ONNX Runtime's own classes, which have no common base
            reason = printable(" ".join(str(error).split()))[:200]
            raise RunError(f"model {self.card.model!r} cannot be computed ({reason}); export the run again") from error
        shapes = [(len(images), len(self.card.class_names)), (len(images),)]
        for name, values, shape in zip(names, found, shapes, strict=False):
            if values.shape != shape or not np.isfinite(values).all():
                problem = f"{name} of shape {values.shape}, expected finite numbers of shape {shape}"
                raise RunError(f"model {self.card.model!r} gives {problem}; export the run again")
        return found


def load_engine(path: Path, *, threads: int = 1) -> Engine:
    """Return the model of a file.

    Args:
        threads: threads of one call of `logits`.

    Raises:
        RunError: the file does not exist, or convscope did not write it.
    """
    return make_engine(load_session(path, threads=threads), path)


def make_engine(session: Session, path: Path) -> Engine:
    """Return the model of a file whose session is already loaded.

    Raises:
        RunError: convscope did not write the file.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if text is None:
            raise ValueError("it has no card")
        card = card_from_json(text)
        _check_fit(card, session)
    except ValueError as error:
        raise RunError(
            f"{path} was not written by this version of convscope ({printable(str(error))}); export the run again"
        ) from None
    return Engine(card, session)


def _check_fit(card: ModelCard, session: Session) -> None:
    """Raise ValueError where the graph does not take the images or give the outputs that its card says."""
    side, channels = card.fit.image_size, 1 if card.fit.gray else 3
    inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    if inputs != [("images", "tensor(uint8)", [side, side, channels])]:
        raise ValueError(f"its inputs are {inputs}, its card says images of {side}x{side}x{channels}")
    widths = {each.name: each.shape[1:] for each in session.get_outputs() if each.type == "tensor(float)"}
    if [width for width in widths.get("logits", [0]) if isinstance(width, int)] not in ([], [len(card.class_names)]):
        raise ValueError(f"its outputs are {widths}, its card names {len(card.class_names)} classes")
    score = None if card.unknown is None else card.unknown.score
    if score not in (None, COSINE, *SCORES) or (score == COSINE and "similarity" not in widths):
        raise ValueError(f"its outputs are {widths}, its card has the score {score!r}")


def predict_entries(
    engine: Engine,
    entries: Iterable[Entry],
    *,
    topk: int,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    threads: int | None = None,
) -> Iterator[ImagePrediction | Skipped]:
    """Yield the prediction for each image, in order, or why the image could not be read.

    Each thread reads, decodes and classifies its own batches, so that decoding and inference overlap.

    Args:
        topk: number of classes to name, best first; all if there are fewer.
        threads: None: one for each core that this process may use.
    """
    fit = engine.card.fit
    assert fit.image_size is not None
    image_bytes = 4 * fit.image_size**2 * (1 if fit.gray else 3)

    def predict(batch: list[Entry]) -> list[ImagePrediction | Skipped]:
        found = [resize_entry(entry, fit, max_pixels=max_pixels, allow_truncated=allow_truncated) for entry in batch]
        images = [item.image for item in found if isinstance(item, Decoded)]
        outputs = iter(engine.outputs(np.stack(images)) if images else ())
        return [
            item if isinstance(item, Skipped) else prediction_of(engine.card, entry.name, *next(outputs), topk=topk)
            for entry, item in zip(batch, found, strict=True)
        ]

    return map_entries(entries, predict, batch_size=rows_at_once(image_bytes), threads=threads)


def rows_at_once(input_bytes: int) -> int:
    """Return the number of inputs of this size as float32 that a thread runs at a time."""
    return min(MAX_BATCH, max(1, BATCH_BYTES // input_bytes))


def prediction_of(
    card: ModelCard, path: str, logits: NDArray[np.float32], similarity: float | None, *, topk: int
) -> ImagePrediction:
    """Return the prediction for one image from its logits [K] and its similarity to the training images."""
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, kind="stable")[:topk]
    rule = card.unknown
    return ImagePrediction(
        path=printable(path),
        topk=tuple((card.class_names[index], float(probabilities[index])) for index in best),
        unknown=None if rule is None or similarity is None else similarity < rule.threshold,
        unknown_label=f"({UNKNOWN})" if UNKNOWN in card.class_names else UNKNOWN,
    )
