"""The model file: whether it says what the network says, and when it answers `unknown`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convscope.pictures import UNKNOWN
from convscope.report.section import NOT_EVALUATED, RecordedRun, Section
from convscope.report.text import count_text, decimal_text, percent_text
from convscope.results import PARITY_TOLERANCE, Table

SHOWN = 10
"""Changed pictures that are named."""
RULES = {
    "cosine to the nearest class": "cosine between what the last layer is given and the nearest class's mean of it",
    "max-probability": "probability of the best class",
}
"""What the scores of a rule are, in words."""


def model_file_section(run: RecordedRun) -> Section:
    """Return what the certificate says."""
    title, found = "The file that predicts", run.certificate
    intro = (
        "model.onnx classifies pictures without torch, sizing, normalization and names included; here it is compared "
        "with the network that was trained, on test pictures."
    )
    if found is None:
        return Section(title, intro, missing=NOT_EVALUATED if run.results is None else "Left out: none was recorded.")
    command = f"convscope predict {run.name} PICTURES"
    if found["failed"] is not None:
        return Section(title, intro, missing=f"There is no model.onnx: {found['failed']}.")
    return Section(title, intro, (_comparison(found), *_rule(found["unknown"])), command)


def _comparison(found: Mapping[str, Any]) -> Table:
    changed = found["changed"]
    names = f": {', '.join(changed[:SHOWN])}" if changed else ""
    limit = f"more than the {PARITY_TOLERANCE:g} that rounding explains"
    difference = f"{found['largest_difference']:.1e}"
    rows = (
        ("Pictures compared", count_text(found["pictures"])),
        ("Read by the file's side from", "the bytes on disk" if found["from_files"] else "the decoded data set"),
        ("Largest difference of a probability", difference if found["agrees"] else f"{difference}, {limit}"),
        ("Pictures that get another class", count_text(len(changed)) + names),
    )
    return Table("Compared with torch", ("What", "Value"), rows)


def _rule(rule: Mapping[str, Any] | None) -> tuple[Table, ...]:
    if rule is None:
        return ()
    rows = (
        ("Score", RULES.get(rule["score"], rule["score"])),
        ("Threshold", decimal_text(rule["threshold"])),
        (f"Validation pictures that keep their class, of {rule['n']:,}", percent_text(rule["kept"])),
        (f"Test pictures that keep it, of {rule['test_n']:,}", percent_text(rule["test_kept"])),
    )
    return (Table(f"Answered “{UNKNOWN}” below a threshold", ("What", "Value"), rows),)
