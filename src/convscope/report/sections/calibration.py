"""Whether the network is right as often as it is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convscope.report.section import NOT_EVALUATED, RecordedRun, Section
from convscope.report.text import count_text, decimal_text, percent_text
from convscope.results import Curves, Line, Panel, Table


def calibration_section(run: RecordedRun) -> Section:
    """Return reliability as trained and with a fitted temperature, and the figures of both."""
    title = "Calibration"
    intro = (
        "A network is calibrated when it is right as often as it is sure, so that of the answers given with 90 in 100 "
        "confidence 90 in 100 are right: the two lines of a chart then lie on each other."
    )
    if run.results is None:
        return Section(title, intro, missing=NOT_EVALUATED)
    if run.calibration is None:
        return Section(title, intro, missing="Left out: the run was made by a version that did not record it.")
    return Section(title, intro, calibration_panels(run.calibration))


def calibration_panels(recorded: Mapping[str, Any]) -> tuple[Panel, ...]:
    """Return the panels of what calibration.json holds."""
    panels: list[Panel] = [_reliability("As trained", recorded["as_trained"])]
    if recorded["scaled"] is not None:
        name = f"With temperature {decimal_text(recorded['temperature'], 2)}"
        panels.append(_reliability(name, recorded["scaled"]))
    return (*panels, _figures(recorded))


def _reliability(name: str, measured: Mapping[str, Any]) -> Curves:
    bins: Sequence[Mapping[str, Any]] = measured["bins"]
    notes = tuple(count_text(each["n"]) for each in bins)
    x = tuple(50 * (each["low"] + each["high"]) for each in bins)
    return Curves(
        f"{name}: ECE {percent_text(measured['ece'], 2)}",
        "confidence in tenths (%)",
        "share (%)",
        (
            Line("sure", x, tuple(_percent(each["confidence"]) for each in bins), notes),
            Line("right", x, tuple(_percent(each["accuracy"]) for each in bins), notes),
        ),
        note_label="pictures",
    )


def _figures(recorded: Mapping[str, Any]) -> Table:
    before, after = recorded["as_trained"], recorded["scaled"]
    rows = [
        ("Pictures", count_text(before["n"])),
        ("Expected calibration error (ECE), as trained", percent_text(before["ece"], 2)),
        ("Loss (mean cross-entropy, nats), as trained", decimal_text(before["loss"])),
    ]
    if after is None:
        rows.append(
            (
                "Temperature",
                "not fitted: no validation picture was wrong"
                if recorded["fitted_on"]
                else "not fitted: no validation part",
            )
        )
    else:
        temperature = recorded["temperature"]
        meaning = "too sure" if temperature > 1 else "not sure enough"
        rows += [
            ("Temperature that the logits are divided by", decimal_text(temperature, 3)),
            (f"Fitted on validation pictures, of which the network was {meaning}", count_text(recorded["fitted_on"])),
            ("Expected calibration error with it", percent_text(after["ece"], 2)),
            ("Loss with it", decimal_text(after["loss"])),
        ]
    return Table(f"Calibration on the {recorded['part']} part", ("What", "Value"), tuple(rows))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
