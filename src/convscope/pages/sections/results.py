"""The metrics on the split that was measured, and the cost of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from convscope.config import RunConfig, config_from_json
from convscope.pages.section import RecordedRun, evaluated, titled
from convscope.pages.text import (
    accuracy_text,
    baseline_text,
    bytes_text,
    count_text,
    decimal_text,
    name_text,
    percent_text,
    seconds_text,
)
from convscope.results.panels import Table
from convscope.results.run import split_text

FEW_IMAGES = 10
"""With fewer images of a class, one more or less changes its recall by more than 10 points."""

SHOWN_NAMES = 10
"""Names of such classes that are listed."""


def _intro(run: RecordedRun) -> str:
    if run.split == "validation":
        return (
            "There is no test split, so these numbers come from the validation split, whose images chose the best "
            "epoch: the accuracy on new images may be lower than the interval says."
        )
    return (
        "These numbers come from the test split, whose images are not trained on and chose nothing: the interval shows "
        "how far the accuracy on all images of this kind may be from the measured one."
    )


@titled("Results", _intro)
def section(run: RecordedRun) -> tuple[Table, ...]:
    results = evaluated(run.results)
    notes = [*(results.get("notes") or ()), *_few(results["per_class"] or ())]
    remarks = (Table("Worth knowing", ("Note",), tuple((note,) for note in notes)),) if notes else ()
    return (_metrics(results, config_from_json(run.facts["config"])), _classes(results), *remarks)


def _few(per_class: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning about classes of few images."""
    few = [f"{name_text(entry['name'])} ({entry['n']})" for entry in per_class if 0 < entry["n"] < FEW_IMAGES]
    if not few:
        return []
    shown = ", ".join(few[:SHOWN_NAMES]) + (f" and {len(few) - SHOWN_NAMES} more" if len(few) > SHOWN_NAMES else "")
    return [f"too few images for figures of their own, fewer than {FEW_IMAGES}: {shown}"]


def _metrics(results: Mapping[str, Any], config: RunConfig) -> Table:
    rows = [("Accuracy", accuracy_text(results["accuracy"])), ("Guessing", baseline_text(results))]
    leaked = results.get("leaked_images")
    if leaked:
        what = f"Accuracy without {count_text(leaked)} images shared with the training or validation split"
        rows.append((what, accuracy_text(results["accuracy_without_leaked"])))
    topk = results.get("topk_accuracy") or {}
    rows += [(f"Top-{k} accuracy", percent_text(value, 2)) for k, value in topk.items() if k != "1"]
    rows += [
        ("Loss (mean cross-entropy, nats)", decimal_text(results["loss"])),
        ("Parameters", count_text(results["num_params"])),
        ("Multiply-adds for one image (MACs)", count_text(results["macs"])),
        *_epochs(results, config),
        ("Time to train", seconds_text(results["train_seconds"])),
        ("Peak memory", bytes_text(results["peak_memory_bytes"])),
        ("Fraction of peak FLOPS", percent_text(results["fraction_of_peak_flops"])),
        ("Seed", str(results["seed"])),
    ]
    return Table(f"Measured on {split_text(results['split'])}", ("What", "Value"), tuple(rows))


def _epochs(results: Mapping[str, Any], config: RunConfig) -> Sequence[tuple[str, str]]:
    if config.only_head:
        return [("Epochs trained", "none: the head of the frozen network was fitted to its optimum")]
    return (
        ("Epochs trained", count_text(results["epochs"])),
        ("Best epoch, whose weights were evaluated", count_text(results["best_epoch"])),
    )


def _classes(results: Mapping[str, Any]) -> Table:
    rows = (
        (entry["name"], count_text(entry["n"]), *(percent_text(entry[key]) for key in ("precision", "recall", "f1")))
        for entry in results["per_class"] or ()
    )
    return Table(
        f"Class by class, {results['split']} split", ("Class", "Images", "Precision", "Recall", "F1"), tuple(rows)
    )
