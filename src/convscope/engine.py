"""Prediction without torch: a model file on ONNX Runtime, its pictures read by the loader that training uses.

A model file is an ONNX graph with what else is needed inside: it takes uint8 pictures [B, H, W, C] and gives logits
[B, K], and its metadata hold the card below. `export` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.config import MAX_PIXELS
from convscope.data.intake import Decoded, Entry, Fit, fit_entry, map_entries, printable
from convscope.errors import RunError
from convscope.onnx_session import Session, load_session
from convscope.pictures import PicturePrediction, Skipped

CARD_KEY = "convscope"
"""Name of the card among the file's metadata."""
BATCH_BYTES = 2**20
"""Size of the pictures of one batch as float32: more falls out of a core's cache and is slower.

EfficientNet-Lite0 on two cores, pictures a second in two threads of one core each: 187 at a batch of 1, 165 at 4, 155
at 32; 155 in one thread of two cores at a batch of 1.
"""
MAX_BATCH = 64


@dataclass(frozen=True)
class UnknownRule:
    """When a picture counts as unlike those of the training: its score is below the threshold.

    Args:
        score: a key of SCORES, or COSINE, which the model file computes.
        kept: fraction of the validation pictures with a score at or above the threshold.
        n: number of validation pictures it was chosen on.
    """

    score: str
    threshold: float
    kept: float
    n: int


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself.

    Args:
        model: name of the network.
        fit: how a picture is brought to the size the graph takes; `image_size` is given.
        unknown: None where every picture gets a class.
    """

    model: str
    class_names: tuple[str, ...]
    fit: Fit
    unknown: UnknownRule | None = None


@dataclass(frozen=True)
class Engine:
    """A model file, ready to predict; it may be used from several threads."""

    card: ModelCard
    session: Session

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, float32 [B, K], of fitted pictures, uint8 [B, H, W, C]."""
        (found,) = self.session.run(["logits"], {"pictures": pictures})
        return np.asarray(found, np.float32)

    def answers(self, pictures: NDArray[np.uint8]) -> list[tuple[NDArray[np.float32], float | None]]:
        """Return for each picture its logits [K], and how like those of the training it is; None without a rule."""
        rule = self.card.unknown
        if rule is None:
            return [(logits, None) for logits in self.logits(pictures)]
        if rule.score == COSINE:
            logits, alike = self.session.run(["logits", "alike"], {"pictures": pictures})
        else:
            logits = self.logits(pictures)
            alike = SCORES[rule.score](logits)
        return list(zip(logits, alike.tolist(), strict=True))


def load_engine(path: Path, *, threads: int = 1) -> Engine:
    """Return the model in a file.

    Args:
        threads: that one call of `logits` uses.

    Raises:
        RunError: there is no such file, or convscope did not write it.
    """
    return make_engine(load_session(path, threads=threads), path)


def make_engine(session: Session, path: Path) -> Engine:
    """Return a model whose session was loaded from this file.

    Raises:
        RunError: convscope did not write it.
    """
    try:
        return Engine(card_from_json(session.get_modelmeta().custom_metadata_map[CARD_KEY]), session)
    except (KeyError, ValueError, TypeError):
        raise RunError(f"{path} was not written by this version of convscope; export the run again") from None


def predict_entries(
    engine: Engine, entries: Iterable[Entry], *, topk: int, max_pixels: int = MAX_PIXELS, threads: int | None = None
) -> Iterator[PicturePrediction | Skipped]:
    """Yield what the model says of each picture, in order, or why it could not be read.

    Each thread reads, decodes and classifies its own batches, so that decoding and inference overlap.

    Args:
        topk: classes to name, best first; all if there are fewer.
        threads: None takes one for each processor this process may use.
    """
    fit = engine.card.fit
    assert fit.image_size is not None
    picture_bytes = 4 * fit.image_size**2 * (1 if fit.gray else 3)

    def answer(batch: list[Entry]) -> list[PicturePrediction | Skipped]:
        found = [fit_entry(entry, fit, max_pixels=max_pixels) for entry in batch]
        pictures = [item.image for item in found if isinstance(item, Decoded)]
        answers = iter(engine.answers(np.stack(pictures)) if pictures else ())
        return [
            item if isinstance(item, Skipped) else describe(engine.card, entry.name, *next(answers), topk=topk)
            for entry, item in zip(batch, found, strict=True)
        ]

    return map_entries(entries, answer, batch_size=rows_at_once(picture_bytes), threads=threads)


def rows_at_once(input_bytes: int) -> int:
    """Return how many inputs of this size as float32 a thread runs at a time."""
    return min(MAX_BATCH, max(1, BATCH_BYTES // input_bytes))


def describe(
    card: ModelCard, path: str, logits: NDArray[np.float32], alike: float | None, *, topk: int
) -> PicturePrediction:
    """Return what the logits [K] of one picture say, and how like those of the training it is."""
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, kind="stable")[:topk]
    rule = card.unknown
    return PicturePrediction(
        path=printable(path),
        topk=tuple((card.class_names[index], float(probabilities[index])) for index in best),
        unknown=None if rule is None or alike is None else alike < rule.threshold,
    )


# ---------------------------------------------------------------- scores


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities along the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def max_probability(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability of the best class.

    Source: D. Hendrycks, K. Gimpel, arXiv:1610.02136.
    """
    return np.asarray(softmax(logits).max(axis=-1))


def energy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithm of the sum of the exponentials of the logits, in nats.

    Source: W. Liu et al., arXiv:2010.03759, with the sign turned: high is alike.
    """
    highest = logits.max(axis=-1).astype(np.float64)
    return np.asarray(highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1)))


COSINE = "cosine to the nearest class"
"""Of what the last layer is given and the mean of each class of it: more strangers are told than by the logits."""
SCORES = {"max-probability": max_probability, "energy": energy}
"""How like the pictures of the training one is, from logits [..., K]; higher is more alike."""


# ---------------------------------------------------------------- the card


def card_to_json(card: ModelCard) -> str:
    """Return the card as it stands in the file's metadata."""
    return json.dumps(asdict(card), ensure_ascii=False)


def card_from_json(text: str) -> ModelCard:
    """Return the card written by `card_to_json`.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    tree: dict[str, Any] = json.loads(text)
    return ModelCard(
        model=tree["model"],
        class_names=tuple(tree["class_names"]),
        fit=Fit(**tree["fit"]),
        unknown=None if tree["unknown"] is None else UnknownRule(**tree["unknown"]),
    )
