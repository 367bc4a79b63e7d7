"""The sections of the report, in the order of the page."""

from collections.abc import Callable

from convscope.pages.section import RecordedRun, Section
from convscope.pages.sections import (
    budget,
    calibration,
    configuration,
    confusion,
    curves,
    data,
    inside,
    model_file,
    predictions,
    results,
)

SECTIONS: dict[str, Callable[[RecordedRun], Section]] = {
    "data": data.section,
    "curves": curves.section,
    "results": results.section,
    "confusion": confusion.section,
    "predictions": predictions.first,
    "mistakes": predictions.mistakes,
    "inside": inside.section,
    "calibration": calibration.section,
    "model-file": model_file.section,
    "budget": budget.section,
    "configuration": configuration.section,
}
