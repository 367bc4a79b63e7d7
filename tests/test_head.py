"""The head of a frozen network against scikit-learn's logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from convscope.training.head import PENALTY_WITHOUT_VALIDATION, Floats, balanced_class_weights, cross_entropy, fit_head


def three_clouds(n: int, seed: int) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=(0.6, 0.3, 0.1))
    x = rng.normal(size=(n, 8)) * np.geomspace(0.1, 10, 8) + 5
    x[:, :3] += 0.4 * np.eye(3)[labels] * np.geomspace(0.1, 10, 8)[:3]
    return x.astype(np.float32), labels


@pytest.mark.parametrize("weighted", [False, True])
def test_the_head_is_scikit_learns(weighted: bool) -> None:
    x, labels = three_clouds(400, 0)
    class_weights = balanced_class_weights(labels, 3) if weighted else None
    ours = fit_head(x, labels, num_classes=3, validation=None, class_weights=class_weights)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = LogisticRegression(
        C=1 / (400 * PENALTY_WITHOUT_VALIDATION), class_weight="balanced" if weighted else None, tol=1e-8, max_iter=2000
    ).fit(scaled, labels)
    logits = ours.logits(x).astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(p / p.sum(axis=1, keepdims=True), theirs.predict_proba(scaled), atol=2e-3)


def test_balanced_weights_are_scikit_learns() -> None:
    _, labels = three_clouds(400, 0)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(balanced_class_weights(labels, 3), expected)


def test_the_penalty_with_the_least_validation_loss_is_taken() -> None:
    x, labels = three_clouds(60, 1)
    validation = three_clouds(300, 2)
    head = fit_head(x, labels, num_classes=3, validation=validation)
    tried = dict(head.losses)
    assert head.penalty == min(tried, key=lambda penalty: tried[penalty])
    assert cross_entropy(head.logits(validation[0]), validation[1]) == pytest.approx(min(tried.values()), abs=1e-4)
    assert 2 < len(tried) <= 10


def test_a_feature_that_never_changes_and_a_class_without_images_are_no_trouble() -> None:
    x, labels = three_clouds(100, 3)
    x[:, 4] = 7.0
    head = fit_head(x, labels, num_classes=4, validation=(x, labels))
    logits = head.logits(x)
    assert np.isfinite(logits).all()
    assert not (logits.argmax(axis=1) == 3).any()
