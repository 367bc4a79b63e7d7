"""The comparison of finished runs, and its files."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np

from convscope.comparison.latency import measure_latencies
from convscope.comparison.recorded import Group, check_comparable, group_runs, load_finished_run
from convscope.comparison.significance import (
    LEVEL,
    Difference,
    Needed,
    compare_correct,
    exact_mcnemar,
    mcnemar_of_runs,
    needed,
)
from convscope.results.comparison import CANNOT_TELL, Comparison, Disagreement, ModelSummary, Pair, is_close
from convscope.results.run import mean_accuracy_of

MODEL_COLUMNS = {
    "model": "model", "n_seeds": "n_seeds",
    "accuracy": "accuracy.value", "low": "accuracy.low", "high": "accuracy.high", "std": "std",
    "num_params": "num_params", "macs": "macs", "train_seconds": "train_seconds", "latency_ms": "latency_ms",
    "step_memory_bytes": "step_memory_bytes", "peak_memory_bytes": "peak_memory_bytes",
}  # fmt: skip
"""Column of comparison.csv -> attribute of a ModelSummary."""
PAIR_COLUMNS = ("a", "b", "difference", "low", "high", "p_value", "p_adjusted", "verdict", "sentence")
MAX_DECIMALS = 4
"""Of a difference in percentage points."""
TURN = "other images, seeds or another kind of processor could turn"
DISAGREEMENT_COLUMNS = ("image", "true", "correct_a", "correct_b", "predicted_a", "predicted_b")


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Return the comparison of finished runs. Runs that differ only in their seed are one network.

    A verdict names the better network if the interval of the difference over images and seeds excludes 0. The intervals
    hold for all pairs together, so the probability of any wrong verdict in a comparison is at most 5 %. It is about
    networks trained on this training split. With one run of each network, how much seeds change is assumed, not
    measured (see `significance.Variances`).

    Raises:
        RunError: a run is not finished, or two runs were not measured on the same images of the same splits.
    """
    runs = [load_finished_run(folder) for folder in folders]
    check_comparable(runs)
    groups = group_runs(runs)
    return compare_groups(groups, latencies=measure_latencies([Path(group.runs[0].folder) for group in groups]))


def compare_groups(
    groups: Sequence[Group],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    latencies: Sequence[float | None] | None = None,
) -> Comparison:
    """Return the comparison of networks measured on the same images; see `compare_runs`.

    Args:
        pairs: labels (a, b) of the networks to compare; None compares all with all.
        latencies: milliseconds of one prediction of each network; None: not measured.
    """
    first, named = groups[0].runs[0], {group.label: group for group in groups}
    members = list(combinations(groups, 2)) if pairs is None else [(named[a], named[b]) for a, b in pairs]
    return Comparison(
        data=first.results["data"],
        split=first.results["split"],
        n_images=len(first.images),
        models=tuple(map(_summarize, groups, latencies or [None] * len(groups))),
        pairs=tuple(_compare_pairs(members)),
    )


def _summarize(group: Group, latency_ms: float | None) -> ModelSummary:
    results = [run.results for run in group.runs]
    accuracies = tuple(float(run.correct.mean()) for run in group.runs)
    seconds = [entry["train_seconds"] for entry in results if entry["train_seconds"] is not None]
    memory = [entry["peak_memory_bytes"] for entry in results if entry["peak_memory_bytes"] is not None]
    return ModelSummary(
        model=group.label,
        runs=tuple(run.folder for run in group.runs),
        seeds=group.seeds,
        accuracies=accuracies,
        accuracy=mean_accuracy_of(correct=[int(run.correct.sum()) for run in group.runs], n=group.correct.shape[1]),
        std=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        num_params=results[0]["num_params"],
        macs=results[0]["macs"],
        train_seconds=float(np.mean(seconds)) if seconds else None,
        peak_memory_bytes=max(memory, default=None),
        latency_ms=latency_ms,
    )


def _compare_pairs(members: Sequence[tuple[Group, Group]]) -> Iterator[Pair]:
    for a, b in members:
        difference = compare_correct(a.correct, b.correct, pairs=len(members))
        verdict, reason, more = _judge(a, b, difference, pairs=len(members))
        yield Pair(
            a=a.label,
            b=b.label,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            std_error=difference.std_error,
            degrees_of_freedom=difference.degrees_of_freedom,
            rests_on="images, with seeds assumed" if _single(a, b) else "images and seeds",
            p_value=difference.p_value,
            p_adjusted=difference.p_adjusted,
            verdict=verdict,
            sentence=reason,
            more_images=more.images,
            more_seeds=more.seeds,
            mcnemar=mcnemar_of_runs(a.correct, b.correct, a.seeds, b.seeds),
            disagreements=_disagreements(a, b),
        )


# ---------------------------------------------------------------- verdicts


def _judge(a: Group, b: Group, difference: Difference, *, pairs: int) -> tuple[str, str, Needed]:
    """Return the verdict, its sentence, and what would settle an open question."""
    single, value, low, high = _single(a, b), difference.value, difference.low, difference.high
    if low > 0 or high < 0:
        better, worse = (b, a) if low > 0 else (a, b)
        lead = points_text(value, low, high) if low > 0 else points_text(-value, -high, -low)
        remarks = [f"{better.label} is better than {worse.label} ({lead})"]
        if is_close(difference.p_adjusted):
            remarks.append(f"it is close, and {TURN} it")
        if single:
            remarks.append("one run of each: seeds are assumed to vary as much as images, --seeds 3 measures how much")
        return better.label, "; ".join(remarks), Needed(None, None, None)
    measured = f"{CANNOT_TELL} ({b.label} against {a.label}: {points_text(value, low, high)})"
    if single and exact_mcnemar(a.correct[0], b.correct[0])[2] < LEVEL:
        advice = "these two runs differ on such images, but other seeds might not; train with --seeds 3"
        return CANNOT_TELL, f"{measured}; {advice}", Needed(None, None, None)
    more = needed(difference, n=a.correct.shape[1], runs=max(len(a.runs), len(b.runs)), pairs=pairs)
    return CANNOT_TELL, f"{measured}; {_advice(more, single=single)}", more


def _single(a: Group, b: Group) -> bool:
    return len(a.runs) == len(b.runs) == 1


def _advice(more: Needed, *, single: bool) -> str:
    images = None if more.images is None else f"about {_rounded(more.images):,} more test images"
    if single:
        return " or ".join([*([images] if images else []), "--seeds 3"]) + " might"
    seeds = None if more.seeds is None else f"{more.seeds:,} more seed{'s' if more.seeds > 1 else ''} each"
    if images or seeds:
        return " or ".join(filter(None, (images, seeds))) + " would"
    if more.both:
        return f"about {_rounded(more.both[0]):,} more test images with {more.both[1]:,} more seeds each would"
    return "a difference as small as this would take more than a thousand times as much"


def points_text(value: float, low: float, high: float) -> str:
    """Return a difference in percentage points with its interval, with enough decimals that no bound looks like 0."""
    ends, digits = (100 * low, 100 * high), 1 if high - low > 0.004 else 2
    while digits < MAX_DECIMALS and any(end and round(end, digits) == 0 for end in ends):
        digits += 1
    first, last = (f"{end:+.{digits}f}" for end in ends)
    return f"{100 * value:+.{digits}f} points, {first} to {last}"


def _rounded(count: int) -> int:
    """Return a count rounded to two significant digits."""
    return int(float(f"{count:.2g}"))


def _disagreements(a: Group, b: Group) -> tuple[Disagreement, ...]:
    shares_a, shares_b = a.correct.mean(axis=0), b.correct.mean(axis=0)
    order = np.argsort(-abs(shares_b - shares_a), kind="stable")
    first = a.runs[0]
    return tuple(
        Disagreement(
            image=first.images[i],
            true=first.true[i],
            correct_a=float(shares_a[i]),
            correct_b=float(shares_b[i]),
            predicted_a=mode(run.predicted[i] for run in a.runs),
            predicted_b=mode(run.predicted[i] for run in b.runs),
        )
        for i in order
        if shares_a[i] != shares_b[i]
    )


# ---------------------------------------------------------------- files


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of comparison.json; disagreements.csv lists the images on which networks differ."""
    models = [asdict(model) | {"n_seeds": model.n_seeds} for model in comparison.models]
    pairs = []
    for pair in comparison.pairs:
        tree = asdict(replace(pair, disagreements=())) | {"num_disagreements": len(pair.disagreements)}
        del tree["disagreements"]
        tree["degrees_of_freedom"] = None if np.isinf(pair.degrees_of_freedom) else pair.degrees_of_freedom
        pairs.append(tree)
    head: dict[str, Any] = {"data": comparison.data, "split": comparison.split, "n_images": comparison.n_images}
    head |= {"baseline_class": comparison.baseline_class, "baseline_accuracy": comparison.baseline_accuracy}
    return head | {"models": models, "pairs": pairs}


def comparison_tables(comparison: Comparison) -> dict[str, tuple[Sequence[str], list[tuple[object, ...]]]]:
    """Return the CSV files of a comparison by name: columns and rows; an unknown value is empty."""
    disagreements = [
        (pair.a, pair.b, *attrgetter(*DISAGREEMENT_COLUMNS)(entry))
        for pair in comparison.pairs
        for entry in pair.disagreements
    ]
    return {
        "comparison.csv": (tuple(MODEL_COLUMNS), [attrgetter(*MODEL_COLUMNS.values())(m) for m in comparison.models]),
        "pairs.csv": (PAIR_COLUMNS, [attrgetter(*PAIR_COLUMNS)(pair) for pair in comparison.pairs]),
        "disagreements.csv": (("a", "b", *DISAGREEMENT_COLUMNS), disagreements),
    }
