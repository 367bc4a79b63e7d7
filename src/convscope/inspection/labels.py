"""Suspected label errors."""

from convscope.errors import UsageError
from convscope.evaluation.metrics import suspected_label_errors
from convscope.inspection.subject import Subject, evidence_of
from convscope.results.panels import ImageGrid, Panel

SHOWN_IMAGES = 20
TRUSTED_ACCURACY = 0.9
"""Below this accuracy most suspected labels belong to images that are merely hard, and the page says so."""


def inspect_labels(subject: Subject) -> tuple[Panel, ...]:
    """Return the images whose label is much less probable than another class, worst first."""
    evidence = evidence_of(subject)
    predictions, names = evidence.predictions, evidence.images.class_names
    suspected = suspected_label_errors(predictions)
    if not suspected:
        raise UsageError(f"no label of the {evidence.split} split looks wrong to this network")
    shown = suspected[:SHOWN_IMAGES]
    title = (
        f"{len(shown)} of {len(suspected):,} suspected labels among {len(predictions.labels):,} {evidence.split} images"
    )
    accuracy = float((predictions.probabilities.argmax(axis=1) == predictions.labels).mean())
    if accuracy < TRUSTED_ACCURACY:
        title += f"; the accuracy is only {100 * accuracy:.0f} %, so most of these labels may be correct"
    return (
        ImageGrid(
            title,
            tuple(evidence.images.images[evidence.indices[i]] for i, _ in shown),
            tuple(
                f"labelled {names[predictions.labels[i]]}\nlooks like {names[likelier]}\n"
                f"probability {100 * predictions.probabilities[i, likelier]:.1f}\N{NO-BREAK SPACE}%\n"
                f"{predictions.ids[i]}"
                for i, likelier in shown
            ),
        ),
    )
