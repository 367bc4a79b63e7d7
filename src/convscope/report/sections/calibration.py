"""Whether the network is right as often as it is sure."""

from __future__ import annotations

from convscope.evaluation.calibration import calibration_from_json, calibration_panels
from convscope.report.section import NOT_EVALUATED, NOT_RECORDED, RecordedRun, Section


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
        return Section(title, intro, missing=NOT_RECORDED)
    return Section(title, intro, calibration_panels(calibration_from_json(run.calibration)))
