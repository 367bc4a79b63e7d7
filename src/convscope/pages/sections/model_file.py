"""The model file: whether its predictions equal the network's, and when it answers `unknown`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convscope.errors import command
from convscope.pages.section import LeftOut, RecordedRun, evaluated, titled
from convscope.pages.text import count_text, decimal_text, percent_text
from convscope.results.panels import Table
from convscope.results.prediction import UNKNOWN
from convscope.results.run import PARITY_TOLERANCE

SHOWN = 10
"""Changed images listed by name."""
RULES = {
    "cosine to the nearest class": "cosine between the last layer's input and the nearest class mean",
    "max-probability": "probability of the most probable class",
}
"""Score of a rule -> its description."""


def _command(run: RecordedRun) -> str:
    """Return a command line that classifies an image of the run's own; "" where its data are not files."""
    source = Path(run.facts["config"]["data"]["source"])
    own = [source / row["image"] for row in run.predictions or ()] if source.is_dir() else [source]
    found = next((path for path in own if path.is_file() and path.suffix != ".csv"), None)
    return "" if found is None else command("predict", run.folder, found)


@titled(
    "The file that predicts",
    lambda run: (
        "model.onnx classifies images without torch and includes resizing, normalization and class names: on "
        f"images of the {run.split} split its probabilities should equal those of the trained network."
    ),
    command=_command,
)
def section(run: RecordedRun) -> tuple[Table, ...]:
    certificate = run.certificate
    if certificate is None:
        evaluated(run.results)
        raise LeftOut("Left out: none was recorded.")
    if certificate["failed"] is not None:
        raise LeftOut(f"There is no model.onnx: {certificate['failed']}.")
    return (_comparison(certificate), *_rule(certificate["unknown"], run.split))


def _comparison(found: Mapping[str, Any]) -> Table:
    changed = found["changed"]
    names = f": {', '.join(changed[:SHOWN])}" if changed else ""
    limit = f"more than the {PARITY_TOLERANCE:g} that rounding explains"
    difference = f"{found['largest_difference']:.1e}"
    rows = (
        ("Images compared", count_text(found["images"])),
        ("Images for model.onnx read from", "the bytes on disk" if found["from_files"] else "the decoded data set"),
        ("Largest difference of a probability", difference if found["agrees"] else f"{difference}, {limit}"),
        ("Images that get another class", count_text(len(changed)) + names),
    )
    return Table("model.onnx compared with torch", ("What", "Value"), rows)


def _rule(rule: Mapping[str, Any] | None, split: str) -> tuple[Table, ...]:
    if rule is None:
        return ()
    rows = (
        ("Score", RULES.get(rule["score"], rule["score"])),
        ("Threshold", decimal_text(rule["threshold"])),
        (f"Validation images that keep their class, of {rule['n']:,}", percent_text(rule["kept"])),
        (f"{split.capitalize()} images that keep it, of {rule['test_n']:,}", percent_text(rule["test_kept"])),
    )
    return (Table(f"Answered “{UNKNOWN}” below a threshold", ("What", "Value"), rows),)
