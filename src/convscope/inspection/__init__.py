"""Looking into trained networks: each inspection computes panels from a Subject and leaves no mark on it."""

from __future__ import annotations

from convscope.inspection.activating import inspect_activating
from convscope.inspection.confusion import inspect_confused_pairs, inspect_confusion
from convscope.inspection.duplicates import inspect_duplicates
from convscope.inspection.feature_maps import inspect_feature_maps
from convscope.inspection.filters import inspect_filters
from convscope.inspection.grad_cam import inspect_grad_cam
from convscope.inspection.labels import inspect_labels
from convscope.inspection.occlusion import inspect_occlusion
from convscope.inspection.reliability import inspect_calibration
from convscope.inspection.statistics import inspect_statistics
from convscope.inspection.subject import Evidence, Inspection, Subject

__all__ = ["INSPECTIONS", "Evidence", "Inspection", "Subject"]

INSPECTIONS: dict[str, Inspection] = {
    "grad-cam": Inspection(
        "Grad-CAM",
        "The warmer a place, the more its features speak for the class: on a network that has learned the right thing "
        "the colour lies on the object, not beside it.",
        "picture",
        inspect_grad_cam,
    ),
    "occlusion": Inspection(
        "Occlusion",
        "Each place was covered by a gray patch: where it is warm the network became less sure of its answer, where "
        "it is blue it became surer.",
        "picture",
        inspect_occlusion,
    ),
    "feature-maps": Inspection(
        "Feature maps",
        "Follow the picture from layer to layer: early maps still look like it, later ones are small and only tell "
        "which features are where; white is zero, warm is positive, blue is negative.",
        "picture",
        inspect_feature_maps,
    ),
    "filters": Inspection(
        "Learned filters",
        "Filters of a well-trained first layer are smooth: edges, blobs and colours; what looks like noise has "
        "learned little.",
        "picture",
        inspect_filters,
    ),
    "statistics": Inspection(
        "Layer by layer in numbers",
        "A layer whose values are nearly all zero hands little on, and where the gradient is a thousand times smaller "
        "than behind it the layers before learn slowly.",
        "picture",
        inspect_statistics,
    ),
    "activating": Inspection(
        "What excites a channel",
        "The pictures that excite a channel most show what it looks for: find what they have in common.",
        "evidence",
        inspect_activating,
    ),
    "confusion": Inspection(
        "Confusion, with the pictures",
        "Behind every number beside the diagonal stand pictures, the largest loss first: judge whether you would have "
        "known better.",
        "evidence",
        inspect_confusion,
    ),
    "confused-pairs": Inspection(
        "Most confused pairs",
        "Pairs of classes that are taken for each other are where more or better pictures help most.",
        "evidence",
        inspect_confused_pairs,
    ),
    "calibration": Inspection(
        "Calibration",
        "Where the two lines of a chart lie on each other the network is right as often as it is sure.",
        "evidence",
        inspect_calibration,
    ),
    "labels": Inspection(
        "Suspected label errors",
        "Here the network is surer of another class than it mostly is of that class's own pictures: look whether the "
        "label is wrong, before you blame the network.",
        "evidence",
        inspect_labels,
    ),
    "duplicates": Inspection(
        "Duplicates",
        "Pictures that were also learned from make a network look better than it is: without them the accuracy is what "
        "it would be on new ones.",
        "evidence",
        inspect_duplicates,
    ),
}
"""Ways of looking, in the order of the page."""
