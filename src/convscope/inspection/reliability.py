"""Whether the network is right as often as it is sure."""

from __future__ import annotations

from convscope.evaluation.calibration import calibrate, calibration_panels
from convscope.inspection.subject import Subject, evidence_of
from convscope.results import Panel


def inspect_calibration(subject: Subject) -> tuple[Panel, ...]:
    """Return reliability as trained, and with the temperature that fits the validation pictures best."""
    evidence = evidence_of(subject)
    calibration = calibrate(
        evidence.part,
        evidence.logits,
        evidence.predictions.labels,
        validation_logits=evidence.validation_logits,
        validation_labels=evidence.images.labels[evidence.validation_indices],
    )
    return calibration_panels(calibration)
