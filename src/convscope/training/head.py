"""The head of a frozen network: multinomial logistic regression on its features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convscope.config import TrainConfig
from convscope.progress import OnProgress, Progress, ignore_progress

PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(1, 11))
"""L2 penalties that are tried, strongest first: 0.3 to 0.00001."""
PENALTY_WITHOUT_VALIDATION = 10.0**-2.5
MAX_ITERATIONS = 200
WORSE_BEFORE_STOP = 2
"""The search ends after this many rises of the validation loss in a row: weaker penalties overfit."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """logits = features @ weight.T + bias, with the penalty of the lowest validation loss.

    Args:
        weight, bias: float32 [K, F] and [K].
        losses: (penalty, validation cross-entropy in nats) for each penalty tried; empty without a validation split.
    """

    weight: Floats
    bias: Floats
    penalty: float
    losses: tuple[tuple[float, float], ...]

    def logits(self, features: Floats) -> Floats:
        """Return float32 [N, K] for features [N, F]."""
        return features @ self.weight.T + self.bias


def fit_head(
    features: Floats,
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    validation: tuple[Floats, NDArray[np.int64]] | None,
    class_weights: Sequence[float] | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Head:
    """Return the head that minimizes mean cross-entropy plus penalty / 2 times the squared norm of the weights.

    The fit standardizes the features to mean 0 and standard deviation 1, so that the same penalties suit all networks.
    The returned head takes features as they are.

    Args:
        features: float32 [N, F]; each augmented copy of an image is a row of its own.
        labels: int64 [N], below num_classes.
        validation: features and labels to choose the penalty by; None uses PENALTY_WITHOUT_VALIDATION.
        class_weights: K weights, one for the images of each class.

    Source: the objective of scikit-learn's LogisticRegression with C = 1 / (N * penalty); the tests compare the two.
    """
    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std == 0] = 1.0
    x = (features - mean) / std
    weights = np.ones(len(x), np.float32) if class_weights is None else np.asarray(class_weights, np.float32)[labels]
    weights = (weights / weights.sum()).astype(np.float32)
    start = np.zeros((num_classes, x.shape[1] + 1), np.float32)
    best, losses = start, []
    penalties = PENALTIES if validation is not None else (PENALTY_WITHOUT_VALIDATION,)
    chosen, worse = penalties[0], 0
    for number, penalty in enumerate(penalties):
        start = _minimize(x, labels, weights, penalty, start)
        on_progress(Progress("fitting the head", number + 1, len(penalties), "penalties"))
        if validation is None:
            best, chosen = start, penalty
            continue
        loss = cross_entropy(((validation[0] - mean) / std) @ start[:, :-1].T + start[:, -1], validation[1])
        losses.append((penalty, loss))
        if loss <= min(value for _, value in losses):
            best, chosen, worse = start, penalty, 0
        else:
            worse += 1
        if worse == WORSE_BEFORE_STOP:
            break
    shown = {"penalty": f"{chosen:.2g}"}
    on_progress(Progress("fitting the head", len(penalties), len(penalties), "penalties", shown))
    weight = best[:, :-1] / std
    return Head(weight, best[:, -1] - weight @ mean, chosen, tuple(losses))


def cross_entropy(logits: Floats, labels: NDArray[np.int64], class_weights: Sequence[float] | None = None) -> float:
    """Return the mean cross-entropy in nats of logits [N, K], each image with the weight of its class."""
    from scipy.special import log_softmax

    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return float(np.average(losses, weights=None if class_weights is None else np.asarray(class_weights)[labels]))


def balanced_class_weights(labels: NDArray[np.int64], num_classes: int) -> tuple[float, ...]:
    """Return class weights with which all classes count the same: N / (K * images of the class)."""
    counts = np.bincount(labels, minlength=num_classes)
    return tuple((len(labels) / (num_classes * np.maximum(counts, 1))).tolist())


def class_weights(config: TrainConfig, labels: NDArray[np.int64], num_classes: int) -> tuple[float, ...] | None:
    """Return the class weights of a configuration, None if all images count the same."""
    return balanced_class_weights(labels, num_classes) if config.class_weights == "balanced" else None


def _minimize(x: Floats, labels: NDArray[np.int64], weights: Floats, penalty: float, start: Floats) -> Floats:
    """Return the minimum found by L-BFGS from `start`, float32 [K, F + 1] with the bias last."""
    from scipy.optimize import minimize
    from scipy.special import softmax

    rows = np.arange(len(labels))

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = flat.reshape(start.shape).astype(np.float32)
        p = softmax(x @ w[:, :-1].T + w[:, -1], axis=1)
        loss = -float(weights @ np.log(np.maximum(p[rows, labels], 1e-30)))
        loss += penalty / 2 * float((w[:, :-1] ** 2).sum())
        p[rows, labels] -= 1
        p *= weights[:, None]
        gradient = np.concatenate([p.T @ x + penalty * w[:, :-1], p.sum(axis=0)[:, None]], axis=1)
        return loss, gradient.ravel().astype(np.float64)

    options = {"maxiter": MAX_ITERATIONS, "ftol": 1e-7, "gtol": 1e-5}
    found = minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, np.float32).reshape(start.shape)
