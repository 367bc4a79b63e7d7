"""Calibration of a run, as trained and with a temperature."""

from convscope.evaluation.calibration import calibrate, calibration_panels
from convscope.inspection.subject import Subject, evidence_of
from convscope.results.panels import Panel


def inspect_calibration(subject: Subject) -> tuple[Panel, ...]:
    """Return the reliability as trained, and with the temperature that fits the validation images best."""
    evidence = evidence_of(subject)
    calibration = calibrate(
        evidence.split,
        evidence.logits,
        evidence.predictions.labels,
        validation_logits=evidence.validation_logits,
        validation_labels=evidence.images.labels[evidence.validation_indices],
    )
    return calibration_panels(calibration)
