"""The page of a comparison: verdicts, networks, accuracy against cost, learning curves, disagreements."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from convscope import __version__
from convscope.pages.page import render_page
from convscope.pages.section import Section
from convscope.pages.text import UNKNOWN, bytes_text, count_text, name_text, percent_text, seconds_text
from convscope.results.comparison import Comparison, Disagreement, ModelSummary, Pair
from convscope.results.panels import Curves, ImageGrid, Line, Panel, Point, Scatter, Table, table_of
from convscope.results.run import EpochRecord
from convscope.storage.files import write_bytes
from convscope.storage.run_folder import read_history

Images = Mapping[str, NDArray[np.uint8]]
"""Images by their id, uint8 [H, W, C]."""
PAGE = "comparison.html"
LOSS, ACCURACY = "loss (mean cross-entropy, nats)", "accuracy (%)"
"""Labels of axes."""
SHOWN = 5
"""Images shown for each network of a pair."""
SHOWN_PAIRS = 10
"""Pairs whose images are shown; disagreements.csv lists all images of all pairs."""
COSTS = {
    "multiply-adds for one image (millions)": ("macs", 1e-6),
    "parameters (thousands)": ("num_params", 1e-3),
    "time to train (s)": ("train_seconds", 1),
    "time for one image (ms)": ("latency_ms", 1),
    "memory of a training step, predicted (MiB)": ("step_memory_bytes", 2**-20),
    "peak memory of the process (MiB)": ("peak_memory_bytes", 2**-20),
}
"""Costs to draw accuracy against: label of the axis -> field of a ModelSummary, and its factor."""


def shown_images(comparison: Comparison) -> list[str]:
    """Return the ids of the images on the page."""
    pairs = comparison.pairs[:SHOWN_PAIRS]
    shown = (entry.image for pair in pairs for side in _sides(pair) for entry in side[:SHOWN])
    return list(dict.fromkeys(shown))


def build_comparison_page(comparison: Comparison, folder: Path, images: Images | str) -> Path:
    """Write FOLDER/comparison.html and return its path.

    Args:
        images: those of `shown_images`, or the reason why they cannot be shown.
    """
    sections = {
        "verdict": _verdict_section(comparison.pairs),
        "networks": _networks_section(comparison.models, comparison.split),
        "cost": _cost_section(comparison.models),
        "curves": _curves_section(comparison.models),
        "images": _images_section(comparison, images),
        "runs": _runs_section(comparison.models),
    }
    runs = sum(model.n_seeds for model in comparison.models)
    content = render_page(
        sections,
        title=f"{', '.join(name_text(model.model) for model in comparison.models)} on {comparison.data}",
        headline=_headline(comparison),
        origin=f"{runs} runs, evaluated on {comparison.n_images:,} images of the {comparison.split} split, "
        + (f"{_guessing(comparison)}, " if comparison.baseline_accuracy is not None else "")
        + f"convscope {__version__}",
    )
    path = folder / PAGE
    write_bytes(path, content)
    return path


def _guessing(comparison: Comparison) -> str:
    name = name_text(comparison.baseline_class or "")
    return f"always naming {name} gives {percent_text(comparison.baseline_accuracy)}"


# ---------------------------------------------------------------- verdicts


def _headline(comparison: Comparison) -> str:
    """Return the verdicts about the network with the highest accuracy."""
    best = max(comparison.models, key=lambda model: model.accuracy.value).model
    others = {pair.a if pair.b == best else pair.b: pair for pair in comparison.pairs if best in (pair.a, pair.b)}
    beaten = [name for name, pair in others.items() if pair.verdict == best]
    open_ = [name for name, pair in others.items() if pair.verdict != best]
    if not beaten:
        return f"{best} has the highest accuracy, but it is not shown to be better than another network"
    unknown = f"; cannot tell whether it is better than {_and(open_)}" if open_ else ""
    return f"{best} is better than {_and(beaten)}{unknown}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _verdict_section(pairs: Sequence[Pair]) -> Section:
    numbers = table_of(
        "The numbers behind the verdicts",
        pairs,
        {
            "Networks": lambda pair: f"{pair.b} against {pair.a}",
            "Difference (points)": lambda pair: f"{100 * pair.difference:+.2f}",
            "95 % interval, of all pairs together": lambda pair: " to ".join(map(_bound_text, (pair.low, pair.high))),
            "p": lambda pair: _p_text(pair.p_value),
            "p, of all pairs together": lambda pair: _p_text(pair.p_adjusted),
            "Includes variation of": lambda pair: pair.rests_on,
            "McNemar's p, seed by seed": lambda pair: ", ".join(_p_text(test.p_value) for test in pair.mcnemar),
        },
    )
    return Section(
        "Is the difference real?",
        "A verdict names the better network if the interval of the difference, over other test images and other seeds, "
        "excludes 0; otherwise it says what would settle the question.",
        (table_of("Verdicts", pairs, {"Verdict": lambda pair: pair.sentence}), numbers),
    )


def _bound_text(bound: float) -> str:
    """Return a bound in percentage points, with more decimals where two would make it look like 0."""
    return f"{100 * bound:+.2f}" if abs(bound) >= 5e-5 else f"{100 * bound:+.1g}"


def _p_text(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# ---------------------------------------------------------------- networks


def _networks_section(models: Sequence[ModelSummary], split: str) -> Section:
    accuracies = table_of(
        f"Accuracy on the {split} split",
        models,
        {
            "Network": lambda model: model.model,
            "Accuracy": lambda model: percent_text(model.accuracy.value, 2),
            "95 % interval": lambda model: " to ".join(
                percent_text(end, 2) for end in (model.accuracy.low, model.accuracy.high)
            ),
            "Std (points)": lambda model: UNKNOWN if model.std is None else f"{100 * model.std:.2f}",
            "Seeds": lambda model: str(model.n_seeds),
        },
    )
    costs = table_of(
        "Cost (the process also holds libraries and images)",
        models,
        {
            "Network": lambda model: model.model,
            "Parameters": lambda model: count_text(model.num_params),
            "Multiply-adds": lambda model: count_text(model.macs),
            "Time to train": lambda model: seconds_text(model.train_seconds),
            "Time for one image": lambda model: UNKNOWN if model.latency_ms is None else f"{model.latency_ms:.3g} ms",
            "Memory of a step, predicted": lambda model: bytes_text(model.step_memory_bytes),
            "Memory of the process, measured": lambda model: bytes_text(model.peak_memory_bytes),
        },
    )
    return Section(
        "Networks",
        "Accuracy is the mean over the seeds: its interval allows for other images, the standard deviation for "
        "other seeds.",
        (accuracies, costs),
    )


def _cost_section(models: Sequence[ModelSummary]) -> Section:
    panels = (_scatter(label, models, field, factor) for label, (field, factor) in COSTS.items())
    return Section(
        "Accuracy against cost",
        "Filled points are on the Pareto front: no other network of this comparison is both cheaper and more accurate; "
        "the verdicts above say which differences in accuracy are more than chance.",
        tuple(panel for panel in panels if panel.points),
    )


def _scatter(label: str, models: Sequence[ModelSummary], field: str, factor: float) -> Scatter:
    """Return the chart of accuracy against one cost, for the networks whose cost is known."""
    known = [model for model in models if getattr(model, field) is not None]
    costs = [factor * getattr(model, field) for model in known]
    front = pareto_front([(cost, model.accuracy.value) for model, cost in zip(known, costs, strict=True)])
    points = []
    for model, cost, on_front in zip(known, costs, front, strict=True):
        value, low, high = (100 * end for end in (model.accuracy.value, model.accuracy.low, model.accuracy.high))
        points.append(Point(model.model, cost, value, low, high, on_front))
    title = label.partition(" (")[0]
    return Scatter(f"Accuracy against {title}", label, ACCURACY, tuple(points), "Pareto front")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, accuracy) whether no other point is at least as good in both and better in one."""
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]


# ---------------------------------------------------------------- curves


def _curves_section(models: Sequence[ModelSummary]) -> Section:
    histories = {model.model: [read_history(Path(run)) for run in model.runs] for model in models}
    panels = (
        _curves("Validation loss", LOSS, histories, "validation_loss"),
        _curves("Validation accuracy", ACCURACY, histories, "validation_accuracy", 100),
        _curves("Training loss", LOSS, histories, "train_loss"),
    )
    drawn = tuple(panel for panel in panels if panel.lines)
    return Section(
        "Learning curves",
        "Each line is the mean over the seeds of a network; validation is measured at the end of each epoch.",
        drawn,
        missing="" if drawn else "Left out: the runs recorded no epochs.",
    )


def _curves(
    title: str, y_label: str, histories: Mapping[str, Sequence[tuple[EpochRecord, ...]]], metric: str, factor: int = 1
) -> Curves:
    lines = []
    for name, runs in histories.items():
        epochs = list(zip(*runs, strict=False))  # the epochs that all seeds reached
        values = [[getattr(epoch, metric) for epoch in of_seeds] for of_seeds in epochs]
        means = tuple(None if None in of_seeds else fmean(factor * y for y in of_seeds) for of_seeds in values)
        if any(mean is not None for mean in means):
            lines.append(Line(name, tuple(float(of_seeds[0].epoch) for of_seeds in epochs), means))
    return Curves(title, "epoch", y_label, tuple(lines))


# ---------------------------------------------------------------- images


def _sides(pair: Pair) -> tuple[list[Disagreement], list[Disagreement]]:
    """Return the images that a predicts correctly more often, and those that b does; the clearest first."""
    of_a = [entry for entry in pair.disagreements if entry.correct_a > entry.correct_b]
    return of_a, [entry for entry in pair.disagreements if entry.correct_b > entry.correct_a]


def _images_section(comparison: Comparison, images: Images | str) -> Section:
    title = "Images on which networks disagree"
    seeds = {model.model: model.n_seeds for model in comparison.models}
    panels: list[Panel] = []
    for pair in comparison.pairs[:SHOWN_PAIRS]:
        of_a, of_b = _sides(pair)
        for entries, correct, wrong in ((of_a, pair.a, pair.b), (of_b, pair.b, pair.a)):
            if entries:
                heading = f"{correct} correct, {wrong} wrong: {min(SHOWN, len(entries))} of {len(entries):,} images"
                panels.append(_disagreement_panel(heading, pair, entries[:SHOWN], seeds, images))
    if not panels:
        return Section(title, "", missing="There is nothing to show: all networks are correct on the same images.")
    more = len(comparison.pairs) - SHOWN_PAIRS
    intro = "Each image was predicted correctly more often by one network of a pair, the clearest first" + (
        f", for the first {SHOWN_PAIRS} pairs" if more > 0 else ""
    )
    not_shown = f" ({images})" if isinstance(images, str) else ""
    return Section(title, f"{intro}; disagreements.csv lists all of them{not_shown}.", tuple(panels))


def _disagreement_panel(
    title: str, pair: Pair, entries: Sequence[Disagreement], seeds: Mapping[str, int], images: Images | str
) -> Panel:
    """Return the images with the predictions of both networks; without images, the same as a table."""

    def prediction(name: str, label: str, fraction: float) -> str:
        return f"{name_text(label)} ({round(fraction * seeds[name])} of {seeds[name]} correct)"

    of_a = [prediction(pair.a, entry.predicted_a, entry.correct_a) for entry in entries]
    of_b = [prediction(pair.b, entry.predicted_b, entry.correct_b) for entry in entries]
    ids, actual = [entry.image for entry in entries], [name_text(entry.true) for entry in entries]
    rows = tuple(zip(ids, actual, of_a, of_b, strict=True))
    if isinstance(images, str):
        return Table(title, ("Image", "Actual", f"{pair.a} predicts", f"{pair.b} predicts"), rows)
    return ImageGrid(
        title,
        tuple(images.get(id_, np.zeros((0, 0, 1), np.uint8)) for id_ in ids),
        tuple(f"actual {true}\n{name_text(pair.a)}: {a}\n{name_text(pair.b)}: {b}" for _, true, a, b in rows),
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
        "The folder of each run has its configuration, predictions and model file.",
        (Table("Runs", ("Folder", "Network", "Seed", "Accuracy"), rows),),
    )
