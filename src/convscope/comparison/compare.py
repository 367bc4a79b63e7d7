"""Runs in, a Comparison out; and how it is written to files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from convscope.comparison.recorded import Group, check_comparable, group_runs, load_finished_run
from convscope.comparison.significance import (
    LEVEL,
    Difference,
    Needed,
    compare_right,
    holm,
    mcnemar_of_runs,
    needed,
    survives_seeds,
)
from convscope.results import CANNOT_TELL, Comparison, Disagreement, ModelSummary, Pair, mean_accuracy_of

MODEL_COLUMNS = (
    "model", "n_seeds", "accuracy", "low", "high", "std", "num_params", "macs", "train_seconds", "peak_memory_bytes",
)  # fmt: skip
PAIR_COLUMNS = ("a", "b", "difference", "low", "high", "p_value", "p_adjusted", "verdict", "sentence")
DISAGREEMENT_COLUMNS = ("a", "b", "picture", "true", "right_a", "right_b", "predicted_a", "predicted_b")


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Return the comparison of finished runs: of networks, where several runs differ in nothing but their seed.

    A verdict names the better network when Holm's adjusted p value of the difference over pictures and seeds is below
    5 %; so the chance that any pair of a comparison is given a verdict it should not have is at most that. It is about
    networks trained on this training part. With one run of each, McNemar's test must find a difference and it must be
    larger than their two seeds could make (see `significance.survives_seeds`).

    Raises:
        RunError: a run is not finished, or two were not measured on the same pictures after the same split.
    """
    runs = [load_finished_run(folder) for folder in folders]
    check_comparable(runs)
    return compare_groups(group_runs(runs))


def compare_groups(groups: Sequence[Group], *, pairs: Sequence[tuple[str, str]] | None = None) -> Comparison:
    """Return the comparison of networks whose runs were measured on the same pictures; see `compare_runs`.

    Args:
        pairs: labels of the networks that are compared, a and b; None compares all with all.
    """
    first, named = groups[0].runs[0], {group.label: group for group in groups}
    members = list(combinations(groups, 2)) if pairs is None else [(named[a], named[b]) for a, b in pairs]
    return Comparison(
        data=first.results["data"],
        part=first.results["part"],
        n_pictures=len(first.pictures),
        models=tuple(map(_summarize, groups)),
        pairs=tuple(_compare_pairs(members)),
    )


def _summarize(group: Group) -> ModelSummary:
    results = [run.results for run in group.runs]
    accuracies = tuple(float(run.right.mean()) for run in group.runs)
    seconds = [entry["train_seconds"] for entry in results if entry["train_seconds"] is not None]
    memory = [entry["peak_memory_bytes"] for entry in results if entry["peak_memory_bytes"] is not None]
    return ModelSummary(
        model=group.label,
        runs=tuple(run.folder for run in group.runs),
        seeds=group.seeds,
        accuracies=accuracies,
        accuracy=mean_accuracy_of(correct=[int(run.right.sum()) for run in group.runs], n=group.right.shape[1]),
        std=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        num_params=results[0]["num_params"],
        macs=results[0]["macs"],
        train_seconds=float(np.mean(seconds)) if seconds else None,
        peak_memory_bytes=max(memory, default=None),
    )


def _compare_pairs(members: Sequence[tuple[Group, Group]]) -> Iterator[Pair]:
    differences = [compare_right(a.right, b.right) for a, b in members]
    adjusted = holm([difference.p_value for difference in differences])
    for (a, b), difference, p_adjusted in zip(members, differences, adjusted, strict=True):
        pair = Pair(
            a=a.label,
            b=b.label,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            std_error=difference.std_error,
            degrees_of_freedom=difference.degrees_of_freedom,
            rests_on="pictures" if len(a.runs) == len(b.runs) == 1 else "pictures and seeds",
            p_value=difference.p_value,
            p_adjusted=p_adjusted,
            verdict=CANNOT_TELL,
            sentence="",
            more_pictures=None,
            more_seeds=None,
            mcnemar=mcnemar_of_runs(a.right, b.right, a.seeds, b.seeds),
            disagreements=_disagreements(a, b),
        )
        yield _judge(pair, a, b, difference, pairs=len(members))


# ---------------------------------------------------------------- verdicts


def _judge(pair: Pair, a: Group, b: Group, difference: Difference, *, pairs: int) -> Pair:
    single = pair.rests_on == "pictures"
    found = pair.p_adjusted < LEVEL
    if found and (not single or survives_seeds(a.right, b.right, difference)):
        better, worse = (b, a) if difference.value > 0 else (a, b)
        lead = _points(abs(difference.value), *_range(difference))
        sentence = f"{better.label} is better than {worse.label} ({lead})"
        if single:
            sentence += "; one run of each: more than two seeds would make, how much exactly only --seeds 3 tells"
        return replace(pair, verdict=better.label, sentence=sentence)
    range_ = _points(difference.value, difference.low, difference.high)
    measured = f"{CANNOT_TELL} ({b.label} against {a.label}: {range_})"
    if single and found:
        advice = "these two runs differ on such pictures, but other seeds could undo that; train with --seeds 3"
        return replace(pair, sentence=f"{measured}; {advice}")
    runs = max(len(a.runs), len(b.runs))
    more = needed(difference, n=a.right.shape[1], runs=runs, pairs=pairs)
    sentence = f"{measured}; {_advice(more, single=single)}"
    return replace(pair, sentence=sentence, more_pictures=more.pictures, more_seeds=more.seeds)


def _advice(more: Needed, *, single: bool) -> str:
    pictures = None if more.pictures is None else f"about {_rounded(more.pictures):,} more test pictures"
    if single:
        return " or ".join([*([pictures] if pictures else []), "--seeds 3"]) + " might"
    seeds = None if more.seeds is None else f"{more.seeds:,} more seed{'s' if more.seeds > 1 else ''} each"
    if pictures or seeds:
        return " or ".join(filter(None, (pictures, seeds))) + " would"
    if more.both:
        return f"about {_rounded(more.both[0]):,} more test pictures with {more.both[1]:,} more seeds each would"
    return "a difference as small as this would take more than a thousand times as much"


def _range(difference: Difference) -> tuple[float, float]:
    """Return the interval of the better one's lead."""
    return (difference.low, difference.high) if difference.value > 0 else (-difference.high, -difference.low)


def _points(value: float, low: float, high: float) -> str:
    """Return a difference in percentage points with its interval, with as many decimals as the interval deserves."""
    digits = 1 if high - low > 0.004 else 2
    return f"{100 * value:+.{digits}f} points, {100 * low:.{digits}f} to {100 * high:.{digits}f}"


def _rounded(count: int) -> int:
    """Return a count with two digits that say something."""
    return int(float(f"{count:.2g}"))


def _disagreements(a: Group, b: Group) -> tuple[Disagreement, ...]:
    shares_a, shares_b = a.right.mean(axis=0), b.right.mean(axis=0)
    order = np.argsort(-abs(shares_b - shares_a), kind="stable")
    first = a.runs[0]
    return tuple(
        Disagreement(
            picture=first.pictures[i],
            true=first.true[i],
            right_a=float(shares_a[i]),
            right_b=float(shares_b[i]),
            predicted_a=_most_said(a, i),
            predicted_b=_most_said(b, i),
        )
        for i in order
        if shares_a[i] != shares_b[i]
    )


def _most_said(group: Group, index: int) -> str:
    return Counter(run.predicted[index] for run in group.runs).most_common(1)[0][0]


# ---------------------------------------------------------------- as files


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of comparison.json; the pictures that networks disagree on are in disagreements.csv."""
    models = [asdict(model) | {"n_seeds": model.n_seeds} for model in comparison.models]
    pairs = []
    for pair in comparison.pairs:
        tree = asdict(replace(pair, disagreements=())) | {"num_disagreements": len(pair.disagreements)}
        del tree["disagreements"]
        tree["degrees_of_freedom"] = None if np.isinf(pair.degrees_of_freedom) else pair.degrees_of_freedom
        pairs.append(tree)
    head = {"data": comparison.data, "part": comparison.part, "n_pictures": comparison.n_pictures}
    return head | {"models": models, "pairs": pairs}


def model_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    """Yield the rows of comparison.csv; see MODEL_COLUMNS. Unknown is empty."""
    for model in comparison.models:
        accuracy = model.accuracy
        figures = (accuracy.value, accuracy.low, accuracy.high, model.std)
        costs = (model.num_params, model.macs, model.train_seconds, model.peak_memory_bytes)
        yield model.model, model.n_seeds, *figures, *costs


def pair_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    """Yield the rows of pairs.csv; see PAIR_COLUMNS."""
    for pair in comparison.pairs:
        yield tuple(getattr(pair, column) for column in PAIR_COLUMNS)


def disagreement_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    """Yield the rows of disagreements.csv; see DISAGREEMENT_COLUMNS."""
    for pair in comparison.pairs:
        for entry in pair.disagreements:
            yield pair.a, pair.b, *(getattr(entry, column) for column in DISAGREEMENT_COLUMNS[2:])
