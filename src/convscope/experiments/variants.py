"""Experiments that compare variants: train each with several seeds, test all on the same images, and judge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from convscope.comparison.compare import PAIR_COLUMNS, compare_groups
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import Networks, Trial, Trials, Variant, group_of, run_trials, stack_variants
from convscope.progress import OnProgress
from convscope.results.comparison import CANNOT_TELL, Comparison, Pair
from convscope.results.panels import Curves, Intervals, Line, Panel, Table

Pairs = Sequence[tuple[str, str]] | None
Values = Sequence[float] | Any
"""One number for each seed."""


def variants_lab(
    question: str,
    intro: str,
    variants: Networks | Sequence[Variant],
    *,
    seeds: int = 6,
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
        first: a clause of the answer before the verdicts.
        method: a sentence to add to the description of the training.
        numbers: measurements beside the comparison's.
    """
    return Finding(
        answer=sentence(*filter(None, (first, conclude(comparison, spoken)))),
        method=" ".join(filter(None, (describe(trials), method))),
        panels=panels,
        numbers=comparison_numbers(comparison) | dict(numbers or {}),
    )


# ---------------------------------------------------------------- sentences


def conclude(comparison: Comparison, spoken: str = "{}") -> str:
    """Return the verdicts of a comparison as a clause for `sentence`."""
    clauses = []
    for reference in dict.fromkeys(pair.a for pair in comparison.pairs):
        for outcome in ("better", "worse", CANNOT_TELL):
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
    cannot_tell = outcome == CANNOT_TELL
    names = _joined([f"{spoken.format(p.b)} ({points_text(p)})" for p in pairs], "or" if cannot_tell else "and")
    reference = spoken.format(pairs[0].a)
    if cannot_tell:
        return f"{CANNOT_TELL} whether {names} is better or worse than {reference}"
    return f"{names} {'is' if len(pairs) == 1 else 'are'} {outcome} than {reference}"


def points_text(pair: Pair) -> str:
    """Return a difference in percentage points with its 95 % interval."""
    return f"{100 * pair.difference:+.1f} points, {100 * pair.low:+.1f} to {100 * pair.high:+.1f}"


def describe(trials: Trials) -> str:
    """Return how the variants were trained and tested, in two sentences."""
    of_first = next(iter(trials.values()))
    first, train = of_first[0], of_first[0].run.config.train
    return (
        f"{len(trials)} variants, {len(of_first)} seeds each, trained on the same "
        f"{first.history[-1].examples_seen // len(first.history):,} images of {first.run.results['data']} for "
        f"{train.epochs} epoch(s) ({train.optimizer}, learning rate up to {train.lr:g}, batches of {train.batch_size})"
        f", tested on the same {len(first.run.images):,} others. Intervals are 95 %: of an accuracy over seeds, of a "
        "difference over images and seeds; a verdict needs Holm's adjusted p value below 5 %."
    )


def _outcome(pair: Pair) -> str:
    return CANNOT_TELL if pair.verdict == CANNOT_TELL else "better" if pair.verdict == pair.b else "worse"


def _joined(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


# ---------------------------------------------------------------- panels


def variant_panels(trials: Trials, comparison: Comparison) -> tuple[Panel, ...]:
    """Return accuracies, verdicts, learning curves and the variants themselves."""
    accuracies = {model.model: [100 * value for value in model.accuracies] for model in comparison.models}
    setups = tuple((name, *_setup(of_seeds[0])) for name, of_seeds in trials.items())
    return (
        seed_intervals("Test accuracy", "accuracy, %", accuracies),
        verdict_table(comparison),
        learning_curves(trials),
        Table("What was trained", ("variant", "network", "settings"), setups),
    )


def seed_intervals(title: str, label: str, values: Mapping[str, Values]) -> Intervals:
    """Return the chart of a number measured with several seeds: mean, 95 % interval and each measurement."""
    mean, low, high = zip(*map(mean_interval, values.values()), strict=True)
    points = tuple(tuple(map(float, of_one)) for of_one in values.values())
    return Intervals(title, label, tuple(values), mean, low, high, points)


def mean_interval(values: Values) -> tuple[float, float, float]:
    """Return the mean over seeds and its 95 % interval, by Student's t."""
    array = np.asarray(values, np.float64)
    margin = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return mean, mean - margin, mean + margin


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
    columns = ("variant", "accuracy", "std", "difference, 95 % interval", "verdict", "parameters", "MACs")
    pairs = {pair.b: pair for pair in comparison.pairs}
    rows = []
    for model in comparison.models:
        difference = verdict = "–"
        if model.model in pairs:
            pair = pairs[model.model]
            difference, outcome = points_text(pair), _outcome(pair)
            verdict = outcome if outcome == CANNOT_TELL else f"{outcome} than {pair.a}"
        accuracy, std = f"{100 * model.accuracy.value:.2f} %", f"{100 * (model.std or 0.0):.2f}"
        rows.append((model.model, accuracy, std, difference, verdict, f"{model.num_params:,}", f"{model.macs or 0:,}"))
    return Table(title, columns, tuple(rows))


def _setup(trial: Trial) -> tuple[str, str]:
    """Return the network of a trial and the options of its training."""
    model, train = trial.run.config.model, trial.run.config.train
    options = [f"{train.optimizer}, lr {train.lr:g}"]
    options += [] if train.normalize else ["not normalized"]
    options += [f"augment {'+'.join(train.augment)}"] if train.augment else []
    return model.stack or model.name, ", ".join(options)


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
        "pairs": [{key: getattr(pair, key) for key in PAIR_COLUMNS if key != "sentence"} for pair in comparison.pairs],
    }


def seed_means(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean over seeds of every variant as JSON values."""
    return {name: np.mean(of_seeds, axis=0).tolist() for name, of_seeds in values.items()}
