"""What the run was expected to take, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convscope.report.section import NOT_RECORDED, RecordedRun, Section
from convscope.report.text import UNKNOWN, bytes_text, percent_text, seconds_text
from convscope.results import Table


def budget_section(run: RecordedRun) -> Section:
    """Return the plan of the run beside what was measured."""
    title, plan = "Memory and time", run.plan
    intro = (
        "What the run was expected to take beside what it took: the most memory that the whole process held up to the "
        "end of each stage, so a figure can only grow from one row to the next."
    )
    if plan is None:
        return Section(title, intro, missing=NOT_RECORDED)
    return Section(title, intro, (_stages(plan), _choices(plan)))


def _stages(plan: Mapping[str, Any]) -> Table:
    rows, so_far = [], 0
    for entry in plan["stages"]:
        predicted, measured = entry["predicted_bytes"], entry["measured_bytes"]
        if predicted is not None:
            predicted = so_far = max(so_far, predicted)
        else:
            so_far = max(so_far, measured or 0)
        rows.append((entry["stage"], *_against(predicted, measured, bytes_text)))
    rows.append(("whole run", *_against(plan["peak"]["predicted_bytes"], plan["peak"]["measured_bytes"], bytes_text)))
    seconds = plan["seconds"]
    rows.append(("time to train", *_against(seconds["predicted"], seconds["measured"], seconds_text)))
    return Table("Expected and measured", ("Up to the end of", "Expected", "Measured", "Difference"), tuple(rows))


def _against(predicted: Any, measured: Any, text: Any) -> tuple[str, str, str]:  # noqa: ANN401
    known = predicted is not None and measured
    return text(predicted), text(measured), percent_text(predicted / measured - 1) if known else UNKNOWN


def _choices(plan: Mapping[str, Any]) -> Table:
    limit = plan["limit_bytes"]
    rows = (
        ("Limit", "none" if limit is None else bytes_text(limit)),
        ("Pictures of a batch", str(plan["batch_size"])),
        ("Parts in which it goes through the network", str(plan["parts"])),
        ("Maps computed again instead of kept", "yes" if plan["checkpoint_activations"] else "no"),
        ("Pictures at a time in the evaluation", str(plan["evaluation_batch"] or "as many as are fast")),
        ("Why", plan["why"]),
    )
    return Table("What was chosen", ("What", "Value"), rows)
