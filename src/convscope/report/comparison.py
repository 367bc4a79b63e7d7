"""The page of a comparison: verdicts, networks, accuracy against cost, curves, and who is right where another errs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from convscope import __version__
from convscope.report.page import Heading, render_page
from convscope.report.section import Section
from convscope.report.text import UNKNOWN, bytes_text, count_text, name_text, percent_text, seconds_text
from convscope.results import (
    Comparison,
    Curves,
    Disagreement,
    EpochRecord,
    ImageGrid,
    Line,
    ModelSummary,
    Pair,
    Panel,
    Point,
    Scatter,
    Table,
)
from convscope.runs import read_history, write_bytes

Pictures = Mapping[str, NDArray[np.uint8]]
"""Pictures by their id, uint8 [H, W, C]."""
PAGE = "comparison.html"
SHOWN = 5
"""Pictures that are shown of either side of a pair."""
SHOWN_PAIRS = 10
"""Pairs of which pictures are shown; disagreements.csv has all of all."""
COSTS: dict[str, Callable[[ModelSummary], float | None]] = {
    "multiply-adds for one picture (millions)": lambda model: _scaled(model.macs, 1e-6),
    "parameters (thousands)": lambda model: _scaled(model.num_params, 1e-3),
    "time to train (s)": lambda model: model.train_seconds,
    "time for one picture (ms)": lambda model: model.latency_ms,
    "memory of a training step, predicted (MiB)": lambda model: _scaled(model.step_memory_bytes, 2**-20),
    "most memory of the process (MiB)": lambda model: _scaled(model.peak_memory_bytes, 2**-20),
}
"""What accuracy is drawn against: label of the axis -> a network's cost; None is unknown."""


def shown_pictures(comparison: Comparison) -> list[str]:
    """Return the ids of the pictures that the page shows."""
    pairs = comparison.pairs[:SHOWN_PAIRS]
    shown = (entry.picture for pair in pairs for side in _sides(pair) for entry in side[:SHOWN])
    return list(dict.fromkeys(shown))


def build_comparison_page(comparison: Comparison, folder: Path, pictures: Pictures | str) -> Path:
    """Write FOLDER/comparison.html and return its path.

    Args:
        pictures: those of `shown_pictures`; or, as a sentence, why they cannot be shown.
    """
    sections = {
        "verdict": _verdict_section(comparison.pairs),
        "networks": _networks_section(comparison),
        "cost": _cost_section(comparison.models),
        "curves": _curves_section(comparison.models),
        "pictures": _pictures_section(comparison, pictures),
        "runs": _runs_section(comparison.models),
    }
    runs = sum(model.n_seeds for model in comparison.models)
    heading = Heading(
        title=f"{', '.join(name_text(model.model) for model in comparison.models)} on {comparison.data}",
        headline=_headline(comparison),
        origin=f"{runs} runs, measured on {comparison.n_pictures:,} pictures of the {comparison.part} part, "
        f"convscope {__version__}",
    )
    path = folder / PAGE
    write_bytes(path, render_page(heading, sections))
    return path


# ---------------------------------------------------------------- verdicts


def _headline(comparison: Comparison) -> str:
    """Return what is known of the network with the highest accuracy."""
    best = max(comparison.models, key=lambda model: model.accuracy.value).model
    beaten: list[str] = []
    open_: list[str] = []
    for pair in comparison.pairs:
        if best in (pair.a, pair.b):
            (beaten if pair.verdict == best else open_).append(pair.a if pair.b == best else pair.b)
    if not beaten:
        return f"No network is shown to be better than {best}, nor {best} than another"
    unknown = f"; whether it is better than {_and(open_)} cannot be told" if open_ else ""
    return f"{best} is better than {_and(beaten)}{unknown}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _verdict_section(pairs: Sequence[Pair]) -> Section:
    sentences = Table("Verdicts", ("Verdict",), tuple((pair.sentence,) for pair in pairs))
    numbers = tuple(
        (
            f"{pair.b} against {pair.a}",
            f"{100 * pair.difference:+.2f}",
            f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}",
            _p_text(pair.p_value),
            _p_text(pair.p_adjusted),
            pair.rests_on,
            ", ".join(_p_text(test.p_value) for test in pair.mcnemar),
        )
        for pair in pairs
    )
    columns = (
        "Networks",
        "Difference (points)",
        "95 % interval",
        "p",
        "p after Holm",
        "Allows for other",
        "McNemar's p, seed by seed",
    )
    return Section(
        "Is the difference real?",
        "A verdict names the better network where the difference is larger than other test pictures and other seeds "
        "would make it by chance, and says what would settle the question where it is not.",
        (sentences, Table("The figures behind them", columns, numbers)),
    )


def _p_text(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# ---------------------------------------------------------------- networks


def _networks_section(comparison: Comparison) -> Section:
    models = comparison.models
    accuracies = tuple(
        (
            model.model,
            percent_text(model.accuracy.value, 2),
            f"{percent_text(model.accuracy.low, 2)} to {percent_text(model.accuracy.high, 2)}",
            UNKNOWN if model.std is None else f"{100 * model.std:.2f}",
            str(model.n_seeds),
        )
        for model in models
    )
    costs = tuple(
        (
            model.model,
            count_text(model.num_params),
            count_text(model.macs),
            seconds_text(model.train_seconds),
            UNKNOWN if model.latency_ms is None else f"{model.latency_ms:.3g} ms",
            bytes_text(model.step_memory_bytes),
            bytes_text(model.peak_memory_bytes),
        )
        for model in models
    )
    accuracy_columns = ("Network", "Accuracy", "95 % interval", "Std (points)", "Seeds")
    cost_columns = (
        "Network",
        "Parameters",
        "Multiply-adds",
        "Time to train",
        "Time for one picture",
        "Memory of a step, predicted",
        "Memory of the process, measured",
    )
    return Section(
        "Networks",
        "Accuracy is the mean over the seeds, and its interval tells how far it may lie from that on all pictures of "
        "this kind; the standard deviation tells how much one run differs from the next, and the process takes memory "
        "for libraries and pictures beside what a training step does.",
        (
            Table("Accuracy", accuracy_columns, accuracies),
            Table("Cost", cost_columns, costs),
        ),
    )


def _cost_section(models: Sequence[ModelSummary]) -> Section:
    panels = [_scatter(label, models, [cost(model) for model in models]) for label, cost in COSTS.items()]
    return Section(
        "Accuracy against cost",
        "Filled points are on the Pareto front: no other network measured here is both cheaper and more accurate; "
        "whether a difference in accuracy is more than chance stands above.",
        tuple(panel for panel in panels if panel is not None),
    )


def _scatter(label: str, models: Sequence[ModelSummary], costs: Sequence[float | None]) -> Scatter | None:
    """Return the chart of accuracy against one cost; None where no network's is known."""
    known = [(model, cost) for model, cost in zip(models, costs, strict=True) if cost is not None]
    if not known:
        return None
    front = pareto_front([(cost, model.accuracy.value) for model, cost in known])
    points = tuple(
        Point(
            name=model.model,
            x=cost,
            y=100 * model.accuracy.value,
            low=100 * model.accuracy.low,
            high=100 * model.accuracy.high,
            marked=on_front,
        )
        for (model, cost), on_front in zip(known, front, strict=True)
    )
    title = label.partition(" (")[0]
    return Scatter(f"Accuracy against {title}", label, "accuracy (%)", points, "Pareto front")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, accuracy) whether no other is at least as good in both and better in one."""
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


# ---------------------------------------------------------------- curves


def _curves_section(models: Sequence[ModelSummary]) -> Section:
    title = "Learning curves"
    intro = "Each line is the mean over a network's seeds, measured on the validation part at the end of each epoch."
    histories = {model.model: [read_history(Path(run)) for run in model.runs] for model in models}
    panels = (
        _curves("Validation loss", "loss (mean cross-entropy, nats)", histories, lambda epoch: epoch.validation_loss),
        _curves("Validation accuracy", "accuracy (%)", histories, _validation_percent),
        _curves("Training loss", "loss (mean cross-entropy, nats)", histories, lambda epoch: epoch.train_loss),
    )
    drawn = tuple(panel for panel in panels if panel.lines)
    return Section(title, intro, drawn, missing="" if drawn else "Left out: the runs recorded no epochs.")


def _validation_percent(epoch: EpochRecord) -> float | None:
    return None if epoch.validation_accuracy is None else 100 * epoch.validation_accuracy


def _curves(
    title: str,
    y_label: str,
    histories: Mapping[str, Sequence[tuple[EpochRecord, ...]]],
    value: Callable[[EpochRecord], float | None],
) -> Curves:
    lines = []
    for name, runs in histories.items():
        epochs = list(zip(*runs, strict=False))  # as far as all seeds came
        values = [[value(epoch) for epoch in of_seeds] for of_seeds in epochs]
        means = tuple(None if None in of_seeds else fmean(y for y in of_seeds if y is not None) for of_seeds in values)
        if any(mean is not None for mean in means):
            lines.append(Line(name, tuple(float(of_seeds[0].epoch) for of_seeds in epochs), means))
    return Curves(title, "epoch", y_label, tuple(lines))


# ---------------------------------------------------------------- pictures


def _sides(pair: Pair) -> tuple[list[Disagreement], list[Disagreement]]:
    """Return the pictures that a gets right more often, and those that b does; the clearest first."""
    of_a = [entry for entry in pair.disagreements if entry.right_a > entry.right_b]
    return of_a, [entry for entry in pair.disagreements if entry.right_b > entry.right_a]


def _pictures_section(comparison: Comparison, pictures: Pictures | str) -> Section:
    title = "Who is right where the other is wrong"
    seeds = {model.model: model.n_seeds for model in comparison.models}
    panels: list[Panel] = []
    for pair in comparison.pairs[:SHOWN_PAIRS]:
        of_a, of_b = _sides(pair)
        for entries, right, wrong in ((of_a, pair.a, pair.b), (of_b, pair.b, pair.a)):
            if entries:
                heading = f"{right} right, {wrong} wrong: {min(SHOWN, len(entries))} of {len(entries):,} pictures"
                panels.append(_disagreement_panel(heading, pair, entries[:SHOWN], seeds, pictures))
    if not panels:
        return Section(title, "", missing="There is nothing to show: all networks are right on the same pictures.")
    more = len(comparison.pairs) - SHOWN_PAIRS
    intro = "Pictures on which two networks differ most, the clearest first" + (
        f", for the first {SHOWN_PAIRS} pairs" if more > 0 else ""
    )
    not_shown = f" ({pictures})" if isinstance(pictures, str) else ""
    return Section(title, f"{intro}; disagreements.csv lists all of them{not_shown}.", tuple(panels))


def _disagreement_panel(
    title: str, pair: Pair, entries: Sequence[Disagreement], seeds: Mapping[str, int], pictures: Pictures | str
) -> Panel:
    """Return the pictures with what both networks say of them; without pictures the same as a table."""

    def says(name: str, label: str, share: float) -> str:
        return f"{name_text(label)} ({round(share * seeds[name])} of {seeds[name]} right)"

    said = [
        (says(pair.a, e.predicted_a, e.right_a), says(pair.b, e.predicted_b, e.right_b), name_text(e.true))
        for e in entries
    ]
    if isinstance(pictures, str):
        rows = tuple((entry.picture, true, a, b) for entry, (a, b, true) in zip(entries, said, strict=True))
        return Table(title, ("Picture", "Actual", f"{pair.a} says", f"{pair.b} says"), rows)
    return ImageGrid(
        title,
        tuple(pictures.get(entry.picture, np.zeros((0, 0, 1), np.uint8)) for entry in entries),
        tuple(f"actual {true}\n{name_text(pair.a)}: {a}\n{name_text(pair.b)}: {b}" for a, b, true in said),
    )


# ---------------------------------------------------------------- runs


def _runs_section(models: Sequence[ModelSummary]) -> Section:
    rows = tuple(
        (Path(run).name, model.model, str(seed), percent_text(accuracy, 2))
        for model in models
        for run, seed, accuracy in zip(model.runs, model.seeds, model.accuracies, strict=True)
    )
    return Section(
        "Runs",
        "Each run has a folder of its own with its configuration, predictions and model file.",
        (Table("Runs", ("Folder", "Network", "Seed", "Accuracy"), rows),),
    )
