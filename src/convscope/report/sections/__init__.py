"""The sections of the report, in the order of the page: each computes panels from a recorded run."""

from __future__ import annotations

from collections.abc import Callable

from convscope.report.section import RecordedRun, Section
from convscope.report.sections import (
    budget,
    calibration,
    configuration,
    confusion,
    curves,
    data,
    inside,
    mistakes,
    model_file,
    predictions,
    results,
)

SECTIONS: dict[str, Callable[[RecordedRun], Section]] = {
    "data": data.data_section,
    "curves": curves.curves_section,
    "results": results.results_section,
    "confusion": confusion.confusion_section,
    "predictions": predictions.predictions_section,
    "mistakes": mistakes.mistakes_section,
    "inside": inside.inside_section,
    "calibration": calibration.calibration_section,
    "model-file": model_file.model_file_section,
    "budget": budget.budget_section,
    "configuration": configuration.configuration_section,
}
