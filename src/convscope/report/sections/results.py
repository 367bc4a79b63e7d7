"""The figures measured on the test part, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convscope.report.section import NOT_EVALUATED, RecordedRun, Section
from convscope.report.text import accuracy_text, bytes_text, count_text, decimal_text, percent_text, seconds_text
from convscope.results import Table


def results_section(run: RecordedRun) -> Section:
    """Return accuracy with its interval, loss, cost, and the table of classes."""
    title = "Results"
    intro = (
        "These figures come from pictures that the network never saw while it learned: the interval tells how far the "
        "accuracy on all pictures of this kind may lie from the one measured on so many."
    )
    if run.results is None:
        return Section(title, intro, missing=NOT_EVALUATED)
    notes = tuple((note,) for note in run.results.get("notes") or ())
    remarks = (Table("Worth knowing", ("Note",), notes),) if notes else ()
    return Section(title, intro, (_figures(run.results), _classes(run.results), *remarks))


def _figures(results: Mapping[str, Any]) -> Table:
    topk = results.get("topk_accuracy") or {}
    rows = [("Accuracy", accuracy_text(results["accuracy"]))]
    leaked = results.get("leaked_pictures")
    if leaked:
        what = f"Accuracy without {count_text(leaked)} pictures that training or validation data have too, or nearly so"
        rows.append((what, accuracy_text(results["accuracy_without_leaked"])))
    rows += [
        (f"Right class among the {k} most probable", percent_text(share, 2)) for k, share in topk.items() if k != "1"
    ]
    rows += [
        ("Loss (mean cross-entropy, nats)", decimal_text(results["loss"])),
        ("Parameters", count_text(results["num_params"])),
        ("Multiply-adds for one picture (MACs)", count_text(results["macs"])),
        ("Epochs trained", count_text(results["epochs"])),
        ("Best epoch, whose weights were measured", count_text(results["best_epoch"])),
        ("Time to train", seconds_text(results["train_seconds"])),
        ("Most memory used", bytes_text(results["peak_memory_bytes"])),
        ("Part of the device's peak arithmetic that was used", percent_text(results["fraction_of_peak_flops"])),
        ("Seed", str(results["seed"])),
    ]
    return Table("Measured on the test part", ("What", "Value"), tuple(rows))


def _classes(results: Mapping[str, Any]) -> Table:
    return Table(
        "Each class by itself",
        ("Class", "Pictures", "Precision", "Recall", "F1"),
        tuple(
            (
                entry["name"],
                count_text(entry["n"]),
                *(percent_text(entry[key]) for key in ("precision", "recall", "f1")),
            )
            for entry in results["per_class"] or ()
        ),
    )
