"""The predicted memory and time of the run beside the measured ones."""

from collections.abc import Mapping
from typing import Any

from convscope.pages.section import RecordedRun, recorded, titled
from convscope.pages.text import UNKNOWN, bytes_text, percent_text, seconds_text
from convscope.results.panels import Table


@titled(
    "Memory and time",
    "Compare the predicted peak memory of the process up to the end of each stage with the measured one; of a resumed "
    "run the largest process counts.",
)
def section(run: RecordedRun) -> tuple[Table, ...]:
    plan = recorded(run.plan)
    return _stages(plan), _choices(plan)


def _stages(plan: Mapping[str, Any]) -> Table:
    rows, so_far, highest = [], 0, 0
    for entry in plan["stages"]:
        predicted, measured = entry["predicted_bytes"], entry["measured_bytes"]
        if predicted is not None:
            predicted = so_far = max(so_far, predicted)
        else:
            so_far = max(so_far, measured or 0)
        if measured is not None:  # the system counts loosely, and a resumed run is several processes
            measured = highest = max(highest, measured)
        rows.append((entry["stage"], *_against(predicted, measured, bytes_text)))
    rows.append(("whole run", *_against(plan["peak"]["predicted_bytes"], plan["peak"]["measured_bytes"], bytes_text)))
    seconds = plan["seconds"]
    rows.append(("time to train", *_against(seconds["predicted"], seconds["measured"], seconds_text)))
    return Table("Predicted and measured", ("Up to the end of", "Predicted", "Measured", "Difference"), tuple(rows))


def _against(predicted: Any, measured: Any, text: Any) -> tuple[str, str, str]:  # noqa: ANN401
    known = predicted is not None and measured
    return text(predicted), text(measured), percent_text(predicted / measured - 1) if known else UNKNOWN


def _choices(plan: Mapping[str, Any]) -> Table:
    limit = plan["limit_bytes"]
    rows = (
        ("Memory limit", "none" if limit is None else bytes_text(limit)),
        ("Batch size", str(plan["batch_size"])),
        ("Micro-batches of a batch", str(plan["micro_batches"])),
        ("Activation checkpointing", "yes" if plan["checkpoint_activations"] else "no"),
        ("Batch size of the evaluation", str(plan["evaluation_batch_size"] or "the fastest")),
        ("Why", plan["why"]),
    )
    return Table("What was chosen", ("What", "Value"), rows)
