"""Whether the accuracy equals the confidence."""

from convscope.evaluation.calibration import calibration_from_json, calibration_panels
from convscope.pages.section import RecordedRun, evaluated, recorded, titled
from convscope.results.panels import Panel


@titled(
    "Calibration",
    "A network is calibrated if 90 of 100 predictions with a confidence of 90 % are correct, and so on: the two lines "
    "of a chart then coincide.",
)
def section(run: RecordedRun) -> tuple[Panel, ...]:
    evaluated(run.results)
    return calibration_panels(calibration_from_json(recorded(run.calibration)))
