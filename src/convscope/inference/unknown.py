"""When the answer is `unknown`: scores of similarity to the training images, higher is more similar; a threshold."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convscope.inference.card import UnknownRule

KEPT = 0.95
"""Fraction of the validation images that keep their class."""
MIN_IMAGES = 20
"""With fewer, the lowest twentieth is less than one image."""
MIN_NORM = 1e-12
"""Vectors are divided by their length or by this, whichever is larger."""
Floats = NDArray[np.float32]

ClassMeans = Floats
"""Mean direction of the features of each class in training, float32 [K, F] of length 1; 0 for a class without any."""


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Return probabilities along the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def max_probability(logits: Floats) -> NDArray[np.float64]:
    """Return the probability of the most probable class, from logits [..., K].

    Source: D. Hendrycks, K. Gimpel, arXiv:1610.02136.
    """
    return np.asarray(softmax(logits).max(axis=-1))


def energy(logits: Floats) -> NDArray[np.float64]:
    """Return the negative energy, log(sum(exp(logits))), of logits [..., K], in nats.

    Source: W. Liu et al., arXiv:2010.03759, with the sign reversed.
    """
    highest = logits.max(axis=-1).astype(np.float64)
    return np.asarray(highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1)))


COSINE = "cosine to the nearest class"
"""Cosine between the last layer's input and its class means; it finds more unknown images than the logits do."""

SCORES = {"max-probability": max_probability, "energy": energy}
"""The scores that need nothing but the logits."""


@dataclass(frozen=True)
class Choice:
    """A rule and its class means; None: the rule uses the logits alone."""

    rule: UnknownRule
    class_means: ClassMeans | None

    def scores(self, logits: Floats, features: Floats | None) -> NDArray[np.float64]:
        """Return the similarity of N images to the training images, from logits [N, K] and features [N, F]."""
        if self.class_means is None:
            return SCORES[self.rule.score](logits)
        assert features is not None
        return np.asarray((_unit(features) @ self.class_means.T).max(axis=1), np.float64)


def mean_directions(features: Floats, labels: NDArray[np.int64], num_classes: int) -> ClassMeans:
    """Return the mean direction of each class, of training images: they are many more than those of validation.

    Args:
        features: float32 [N, F]. labels: int64 [N].
    """
    unit = _unit(features)
    return _unit(np.stack([unit[labels == label].sum(axis=0) for label in range(num_classes)]))


def choose_rule(
    logits: Floats, features: Floats | None, class_means: ClassMeans | None, score: str = "max-probability"
) -> Choice | None:
    """Return the rule under which a fraction KEPT of the validation images keep their class; None for too few images.

    Args:
        logits, features: of the validation images, float32 [N, K] and [N, F]; None: the network gives no features.
        class_means: of `mean_directions`; None without features.
        score: used without features.
    """
    if len(logits) < MIN_IMAGES:
        return None
    choice = Choice(UnknownRule(score if class_means is None else COSINE, 0.0, 0.0, len(logits)), class_means)
    values = choice.scores(logits, features)
    threshold = float(np.quantile(values, 1 - KEPT, method="lower"))
    rule = replace(choice.rule, threshold=threshold, kept=float((values >= threshold).mean()))
    return replace(choice, rule=rule)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), MIN_NORM), np.float32)
