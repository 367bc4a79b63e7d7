"""The metrics on the test split, and the cost of the run."""

from collections.abc import Mapping
from typing import Any

from convscope.pages.section import RecordedRun, evaluated, titled
from convscope.pages.text import accuracy_text, bytes_text, count_text, decimal_text, percent_text, seconds_text
from convscope.results.panels import Table


@titled(
    "Results",
    "These numbers come from images that the network never saw in training: the interval shows how far the accuracy on "
    "all images of this kind may be from the measured one.",
)
def section(run: RecordedRun) -> tuple[Table, ...]:
    results = evaluated(run.results)
    notes = tuple((note,) for note in results.get("notes") or ())
    remarks = (Table("Worth knowing", ("Note",), notes),) if notes else ()
    return (_metrics(results), _classes(results), *remarks)


def _metrics(results: Mapping[str, Any]) -> Table:
    rows = [("Accuracy", accuracy_text(results["accuracy"]))]
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
        ("Epochs trained", count_text(results["epochs"])),
        ("Best epoch, whose weights were evaluated", count_text(results["best_epoch"])),
        ("Time to train", seconds_text(results["train_seconds"])),
        ("Peak memory", bytes_text(results["peak_memory_bytes"])),
        ("Fraction of peak FLOPS", percent_text(results["fraction_of_peak_flops"])),
        ("Seed", str(results["seed"])),
    ]
    return Table("Measured on the test split", ("What", "Value"), tuple(rows))


def _classes(results: Mapping[str, Any]) -> Table:
    rows = (
        (entry["name"], count_text(entry["n"]), *(percent_text(entry[key]) for key in ("precision", "recall", "f1")))
        for entry in results["per_class"] or ()
    )
    return Table("Class by class", ("Class", "Images", "Precision", "Recall", "F1"), tuple(rows))
