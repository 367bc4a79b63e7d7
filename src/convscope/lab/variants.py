"""Experiments that compare variants: each trained with several seeds, tested on the same pictures, and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from convscope.comparison.compare import compare_groups
from convscope.config import RunConfig
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.trials import Trial, Variant, group_of, run_trials
from convscope.progress import OnProgress
from convscope.results import CANNOT_TELL, Comparison, Curves, Intervals, Line, Pair, Panel, Table

Sequences = Sequence[Sequence[Trial]]
Pairs = Sequence[tuple[str, str]] | None


def variants_lab(
    question: str,
    look: str,
    variants: Callable[[], Sequence[Variant]],
    *,
    seeds: int = 6,
    pairs: Pairs = None,
    spoken: str = "{}",
    extra: Callable[[Sequence[Variant]], tuple[Panel, ...]] = lambda _: (),
) -> Lab:
    """Return the experiment that compares variants.

    Args:
        variants: makes them.
        pairs: the names that are compared, the reference first; None compares all with the first.
        spoken: how a variant is named in the answer, its name in place of the braces: "{} pooling".
        extra: makes further panels.
    """

    def find(setting: Setting, on_progress: OnProgress) -> Finding:
        made = variants()
        trials = run_trials(made, setting, on_progress)
        comparison = compare_variants(made, trials, pairs)
        return Finding(
            answer=sentence(conclude(comparison, spoken)),
            method=describe(made, trials),
            panels=(*variant_panels(made, trials, comparison), *extra(made)),
            numbers=comparison_numbers(comparison),
        )

    return Lab(question, look, find, seeds)


def compare_variants(variants: Sequence[Variant], trials: Sequences, pairs: Pairs = None) -> Comparison:
    """Return the comparison of these pairs, or of all variants with the first."""
    names = [variant.name for variant in variants]
    groups = [group_of(*named) for named in zip(names, trials, strict=True)]
    return compare_groups(groups, pairs=pairs or [(names[0], name) for name in names[1:]])


# ---------------------------------------------------------------- in words


def conclude(comparison: Comparison, spoken: str = "{}") -> str:
    """Return what the pairs of a comparison say, for `sentence`."""
    parts = []
    for reference in dict.fromkeys(pair.a for pair in comparison.pairs):
        for outcome in ("better", "worse", CANNOT_TELL):
            pairs = [p for p in comparison.pairs if p.a == reference and _outcome(p) == outcome]
            if pairs:
                parts.append(_statement(pairs, outcome, spoken))
    seeds = comparison.models[0].n_seeds
    return f"on {comparison.n_pictures:,} test pictures, {seeds} seeds each: {'; '.join(parts)}"


def sentence(*clauses: str) -> str:
    """Return clauses as one sentence."""
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."


def _statement(pairs: Sequence[Pair], outcome: str, spoken: str) -> str:
    """Return what is said of pairs with one reference and one outcome."""
    cannot_tell = outcome == CANNOT_TELL
    names = _joined([f"{spoken.format(p.b)} ({points_text(p)})" for p in pairs], "or" if cannot_tell else "and")
    reference = spoken.format(pairs[0].a)
    if cannot_tell:
        return f"{CANNOT_TELL} whether {names} is better or worse than {reference}"
    return f"{names} {'is' if len(pairs) == 1 else 'are'} {outcome} than {reference}"


def points_text(pair: Pair) -> str:
    """Return a difference in percentage points with its 95 % interval."""
    return f"{100 * pair.difference:+.1f} points, {100 * pair.low:+.1f} to {100 * pair.high:+.1f}"


def describe(variants: Sequence[Variant], trials: Sequences) -> str:
    """Return what was trained and tested, in a sentence or two."""
    run, config = trials[0][0].run, variants[0].config
    trained = trials[0][0].history[-1].examples_seen // len(trials[0][0].history)
    train = config.train
    return (
        f"{len(variants)} variants, {len(trials[0])} seeds each, trained on the same {trained:,} pictures of "
        f"{run.results['data']} for {run.config.train.epochs} epoch(s) ({train.optimizer}, learning rate up to "
        f"{train.lr:g}, batches of {train.batch_size}), tested on the same {len(run.pictures):,} others. Intervals are "
        "95 %: of an accuracy over seeds, of a difference over pictures and seeds; a verdict is given where Holm's "
        "adjusted p value is below 5 %."
    )


def _verdict_text(pair: Pair) -> str:
    outcome = _outcome(pair)
    return outcome if outcome == CANNOT_TELL else f"{outcome} than {pair.a}"


def _outcome(pair: Pair) -> str:
    return CANNOT_TELL if pair.verdict == CANNOT_TELL else "better" if pair.verdict == pair.b else "worse"


def _joined(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


# ---------------------------------------------------------------- in pictures


def variant_panels(variants: Sequence[Variant], trials: Sequences, comparison: Comparison) -> tuple[Panel, ...]:
    """Return accuracies, verdicts, learning curves and the variants themselves."""
    names = tuple(variant.name for variant in variants)
    accuracies = [[100 * value for value in model.accuracies] for model in comparison.models]
    return (
        seed_intervals("Test accuracy", "accuracy, %", names, accuracies),
        verdict_table(comparison),
        learning_curves(names, trials),
        Table("What was trained", ("variant", "network", "settings"), tuple(map(_setup, variants))),
    )


def seed_intervals(title: str, label: str, names: Sequence[str], values: Sequence[Sequence[float] | Any]) -> Intervals:
    """Return the chart of a figure that was measured with several seeds: mean, 95 % interval and each one."""
    found = [mean_interval(of_one) for of_one in values]
    mean, low, high = (tuple(column) for column in zip(*found, strict=True))
    points = tuple(tuple(float(value) for value in of_one) for of_one in values)
    return Intervals(title, label, tuple(names), mean, low, high, points)


def mean_interval(values: Sequence[float] | Any) -> tuple[float, float, float]:  # noqa: ANN401
    """Return the mean of several seeds with its 95 % interval, Student's."""
    array = np.asarray(values, np.float64)
    margin = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return mean, mean - margin, mean + margin


def seed_line(name: str, x: Sequence[float], values: Any) -> Line:  # noqa: ANN401
    """Return the line of what was measured with several seeds, [seeds, len(x)]: the mean, and from least to most."""
    array = np.asarray(values, np.float64)
    mean, low, high = (tuple(map(float, column)) for column in (array.mean(0), array.min(0), array.max(0)))
    return Line(name, tuple(map(float, x)), mean, low=low, high=high)


def learning_curves(names: Sequence[str], trials: Sequences) -> Curves:
    """Return validation accuracy by epoch."""
    epochs = range(1, 1 + len(trials[0][0].history))
    lines = tuple(
        seed_line(
            name, epochs, [[100 * (epoch.validation_accuracy or 0.0) for epoch in trial.history] for trial in one]
        )
        for name, one in zip(names, trials, strict=True)
    )
    return Curves("Validation accuracy while training, mean and range of the seeds", "epoch", "accuracy, %", lines)


def verdict_table(comparison: Comparison) -> Table:
    """Return accuracies, differences and verdicts in numbers."""
    columns = ("variant", "accuracy", "std", "difference, 95 % interval", "verdict", "parameters", "MACs")
    return Table("Verdicts", columns, tuple(_rows(comparison)))


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    pairs = {pair.b: pair for pair in comparison.pairs}
    rows: list[tuple[str, ...]] = []
    for model in comparison.models:
        pair = pairs.get(model.model)
        difference, verdict = ("–", "–") if pair is None else (points_text(pair), _verdict_text(pair))
        accuracy, std = f"{100 * model.accuracy.value:.2f} %", f"{100 * (model.std or 0.0):.2f}"
        rows.append((model.model, accuracy, std, difference, verdict, f"{model.num_params:,}", f"{model.macs or 0:,}"))
    return rows


def _setup(variant: Variant) -> tuple[str, str, str]:
    config: RunConfig = variant.config
    train = config.train
    extra = [f"{train.optimizer}, lr {train.lr:g}"]
    extra += [] if train.normalize else ["not normalized"]
    extra += [f"augment {'+'.join(train.augment)}"] if train.augment else []
    return variant.name, config.model.stack or config.model.name, ", ".join(extra)


# ---------------------------------------------------------------- as numbers


def comparison_numbers(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON takes it, in short."""
    return {
        "n_pictures": comparison.n_pictures,
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
            {
                "a": pair.a,
                "b": pair.b,
                "difference": pair.difference,
                "low": pair.low,
                "high": pair.high,
                "p_value": pair.p_value,
                "p_adjusted": pair.p_adjusted,
                "verdict": pair.verdict,
            }
            for pair in comparison.pairs
        ],
    }
