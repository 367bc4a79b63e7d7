"""The card of a model file: the network's name, classes, preprocessing and the rule for `unknown`."""

import json
from dataclasses import asdict, dataclass

from convscope.data.decode.resize import Resizing
from convscope.schema import checked

CARD_KEY = "convscope"
"""Key of the card in the file's metadata."""


@dataclass(frozen=True)
class UnknownRule:
    """An image counts as unlike the training images when its score is below the threshold.

    Args:
        score: a key of SCORES, or COSINE, which the model file computes.
        kept: fraction of the validation images with a score at or above the threshold.
        n: number of validation images that the threshold was chosen on.
    """

    score: str
    threshold: float
    kept: float
    n: int


@dataclass(frozen=True)
class ModelCard:
    """What a model file needs beside its graph.

    Args:
        fit: how to bring an image to the input size of the graph; `image_size` is not None.
        unknown: None: every image gets a class.
    """

    model: str
    class_names: tuple[str, ...]
    fit: Resizing
    unknown: UnknownRule | None = None


def card_to_json(card: ModelCard) -> str:
    """Return the card as the file's metadata holds it."""
    return json.dumps(asdict(card), ensure_ascii=False)


def card_from_json(text: str) -> ModelCard:
    """Return the card written by `card_to_json`.

    Raises:
        ValueError: the text is not a card; names the value that is wrong.
    """
    try:
        tree = json.loads(text)
    except RecursionError:
        raise ValueError("its card is nested too deeply") from None
    card: ModelCard = checked(tree, ModelCard, "card")
    if len(card.class_names) < 2 or card.fit.image_size is None:
        raise ValueError(f"its card names {len(card.class_names)} classes and the size {card.fit.image_size}")
    return card
