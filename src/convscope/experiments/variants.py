"""Experiments that compare variants: train each with several seeds, test all on the same images, and judge."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
from scipy.stats import t

from convscope.comparison.compare import PAIR_COLUMNS, TURN, compare_groups, points_text
from convscope.config import TrainConfig
from convscope.experiments.experiment import SEEDS, Finding, Lab, Setting
from convscope.experiments.trials import Networks, Trials, Variant, group_of, run_trials, stack_variants
from convscope.progress import OnProgress
from convscope.results.comparison import CANNOT_TELL, Comparison, Pair, is_close
from convscope.results.comparison import CLOSE as CLOSE_P
from convscope.results.panels import Curves, Intervals, Line, Panel, Table

Pairs = Sequence[tuple[str, str]] | None
Values = Sequence[float] | Any
"""One number for each seed."""
CLOSE = "too close to call"
"""In place of a verdict that other images, seeds or another kind of processor could turn."""


def variants_lab(
    question: str,
    intro: str,
    variants: Networks | Sequence[Variant],
    *,
    seeds: int = SEEDS,
    pairs: Pairs = None,
    spoken: str = "{}",
    extra: Callable[[Trials], tuple[Panel, ...]] = lambda _: (),
    **train: Any,  # noqa: ANN401
) -> Lab:
    """Return the experiment that compares variants by their test accuracy.

    Args:
        variants: stacks by name, trained in the same way; or variants that also differ in their training.
        pairs: names to compare, the reference first; None compares every variant with the first.
        spoken: how the answer names a variant, with its name in place of the braces: "{} pooling".
        extra: computes further panels.
        train: how stacks are trained, where it differs from `trials.TRAINING`.
    """

    def run(setting: Setting, on_progress: OnProgress) -> Finding:
        chosen = stack_variants(variants, **train) if isinstance(variants, Mapping) else variants
        trials = run_trials(chosen, setting, on_progress)
        comparison = compare_variants(trials, pairs)
        panels = (*variant_panels(trials, comparison), *extra(trials))
        return make_finding(trials, comparison, panels=panels, spoken=spoken)

    return Lab(question, intro, run, seeds)


def compare_variants(trials: Trials, pairs: Pairs = None) -> Comparison:
    """Return the comparison of these pairs, or of every variant with the first."""
    names = list(trials)
    return compare_groups(
        [group_of(name, of_seeds) for name, of_seeds in trials.items()],
        pairs=pairs or [(names[0], name) for name in names[1:]],
    )


def make_finding(
    trials: Trials,
    comparison: Comparison,
    *,
    panels: tuple[Panel, ...],
    spoken: str = "{}",
    first: str = "",
    method: str = "",
    numbers: Mapping[str, Any] | None = None,
) -> Finding:
    """Return what trials and their comparison show.

    Args:
        panels: what was measured; the table of what was trained is added.
        first: a clause of the answer before the verdicts.
        method: a sentence to add to the description of the training.
        numbers: measurements beside the comparison's.
    """
    return Finding(
        answer=sentence(*filter(None, (first, conclude(comparison, spoken)))),
        method=" ".join(filter(None, (describe(trials), method))),
        panels=(*panels, setup_table(trials)),
        numbers=comparison_numbers(comparison) | dict(numbers or {}),
    )


# ---------------------------------------------------------------- sentences


def conclude(comparison: Comparison, spoken: str = "{}") -> str:
    """Return the verdicts of a comparison as a clause for `sentence`."""
    clauses = []
    for reference in dict.fromkeys(pair.a for pair in comparison.pairs):
        for outcome in ("better", "worse", CLOSE, CANNOT_TELL):
            pairs = [p for p in comparison.pairs if p.a == reference and _outcome(p) == outcome]
            if pairs:
                clauses.append(_statement(pairs, outcome, spoken))
    seeds = comparison.models[0].n_seeds
    return f"on {comparison.n_images:,} test images, {seeds} seeds each: {'; '.join(clauses)}"


def sentence(*clauses: str) -> str:
    """Return clauses as one sentence."""
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."


def _statement(pairs: Sequence[Pair], outcome: str, spoken: str) -> str:
    """Return the clause for pairs with one reference and one outcome."""
    is_open = outcome in (CLOSE, CANNOT_TELL)
    texts = [f"{spoken.format(p.b)} ({points_text(p.difference, p.low, p.high)})" for p in pairs]
    names, reference = _joined(texts, "or" if is_open else "and"), spoken.format(pairs[0].a)
    if not is_open:
        return f"{names} {'is' if len(pairs) == 1 else 'are'} {outcome} than {reference}"
    clause = f"{outcome} whether {names} is better or worse than {reference}"
    return f"{clause} ({TURN} the verdict)" if outcome == CLOSE else clause


def describe(trials: Trials) -> str:
    """Return how the variants were trained and tested, in two sentences."""
    of_first = next(iter(trials.values()))
    first = of_first[0]

    def settings(text: Callable[[TrainConfig], str]) -> str:
        return " or ".join(dict.fromkeys(text(of_seeds[0].run.config.train) for of_seeds in trials.values()))

    return (
        f"{len(trials)} variant{'s' if len(trials) > 1 else ''}, {len(of_first)} seeds each, trained on the same "
        f"{first.history[-1].examples_seen // len(first.history):,} images of {first.run.results['data']} "
        f"({settings(_training_text)}), tested on the same {len(first.run.images):,} others. Intervals are 95 %: of an "
        "accuracy over seeds, of the differences over images and seeds and of all of them together; a difference is "
        "real if its interval excludes 0, and too close to call if its adjusted p value is from "
        f"{' to '.join(map(str, CLOSE_P))}."
    )


def _training_text(train: TrainConfig) -> str:
    epochs = "1 epoch" if train.epochs == 1 else f"{train.epochs} epochs"
    return f"{epochs}, {train.optimizer}, learning rate up to {train.lr:g}, batches of {train.batch_size}"


def _outcome(pair: Pair) -> str:
    if is_close(pair.p_adjusted):
        return CLOSE
    return CANNOT_TELL if pair.verdict == CANNOT_TELL else "better" if pair.verdict == pair.b else "worse"


def _joined(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


# ---------------------------------------------------------------- panels


def variant_panels(trials: Trials, comparison: Comparison) -> tuple[Panel, ...]:
    """Return accuracies, verdicts and learning curves."""
    accuracies = {model.model: [100 * value for value in model.accuracies] for model in comparison.models}
    return (
        seed_intervals("Test accuracy", "accuracy, %", accuracies),
        verdict_table(comparison),
        learning_curves(trials),
    )


def seed_intervals(title: str, label: str, values: Mapping[str, Values]) -> Intervals:
    """Return the chart of a percentage measured with several seeds: mean, 95 % interval and each measurement."""
    mean, low, high = zip(*(mean_interval(of_one, within=(0, 100)) for of_one in values.values()), strict=True)
    points = tuple(tuple(map(float, of_one)) for of_one in values.values())
    return Intervals(title, label, tuple(values), mean, low, high, points)


def mean_interval(values: Values, *, within: tuple[float, float] = (-inf, inf)) -> tuple[float, float, float]:
    """Return the mean over seeds and its 95 % interval, by Student's t and within what is possible."""
    array = np.asarray(values, np.float64)
    margin = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return mean, max(within[0], mean - margin), min(within[1], mean + margin)


def seed_curves(title: str, x_label: str, y_label: str, x: Sequence[float], values: Mapping[str, Any]) -> Curves:
    """Return a line per variant for values [seeds, len(x)]: the mean, with a band from the lowest to the highest."""
    lines = []
    for name, of_seeds in values.items():
        array = np.asarray(of_seeds, np.float64)
        mean, low, high = (tuple(map(float, column)) for column in (array.mean(0), array.min(0), array.max(0)))
        lines.append(Line(name, tuple(map(float, x)), mean, low=low, high=high))
    return Curves(title, x_label, y_label, tuple(lines))


def learning_curves(trials: Trials) -> Curves:
    """Return validation accuracy against epochs."""
    percent = {
        name: [[100 * (epoch.validation_accuracy or 0.0) for epoch in trial.history] for trial in of_seeds]
        for name, of_seeds in trials.items()
    }
    epochs = range(1, 1 + len(next(iter(trials.values()))[0].history))
    title = "Validation accuracy during training, mean and range over the seeds"
    return seed_curves(title, "epoch", "accuracy, %", epochs, percent)


def verdict_table(comparison: Comparison, title: str = "Verdicts") -> Table:
    """Return accuracies, differences and verdicts as text."""
    columns = ("variant", "accuracy", "std", "difference, 95 % interval of all", "verdict", "parameters", "MACs")
    pairs = {pair.b: pair for pair in comparison.pairs}
    rows = []
    for model in comparison.models:
        difference = verdict = "–"
        if model.model in pairs:
            pair = pairs[model.model]
            difference, outcome = points_text(pair.difference, pair.low, pair.high), _outcome(pair)
            verdict = outcome if outcome in (CLOSE, CANNOT_TELL) else f"{outcome} than {pair.a}"
        accuracy, std = f"{100 * model.accuracy.value:.2f} %", f"{100 * (model.std or 0.0):.2f}"
        rows.append((model.model, accuracy, std, difference, verdict, f"{model.num_params:,}", f"{model.macs or 0:,}"))
    return Table(title, columns, tuple(rows))


def setup_table(trials: Trials) -> Table:
    """Return the network of every variant and how it was trained."""
    rows = []
    for name, (trial, *_) in trials.items():
        model, train = trial.run.config.model, trial.run.config.train
        images = ["normalized" if train.normalize else "pixels 0..1", *train.augment, trial.variant.note]
        rows.append((name, model.stack or model.name, _training_text(train), ", ".join(filter(None, images))))
    return Table("What was trained", ("variant", "network", "training", "images"), tuple(rows))


# ---------------------------------------------------------------- numbers


def comparison_numbers(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return {
        "n_images": comparison.n_images,
        "variants": [
            {
                "name": model.model,
                "accuracies": list(model.accuracies),
                "accuracy": float(np.mean(model.accuracies)),
                "std": model.std,
                "num_params": model.num_params,
                "macs": model.macs,
            }
            for model in comparison.models
        ],
        "pairs": [
            {key: getattr(pair, key) for key in PAIR_COLUMNS if key != "sentence"} | {"outcome": _outcome(pair)}
            for pair in comparison.pairs
        ],
    }


def seed_means(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean over seeds of every variant as JSON values."""
    return {name: np.mean(of_seeds, axis=0).tolist() for name, of_seeds in values.items()}
