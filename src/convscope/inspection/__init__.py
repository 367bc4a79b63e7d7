"""Looking inside trained networks: each inspection computes panels from a Subject and does not change it."""

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
        "The warmer a place, the more its features support the class: in a network that has learned to recognize the "
        "object, the colour is on the object and not beside it.",
        "image",
        inspect_grad_cam,
    ),
    "occlusion": Inspection(
        "Occlusion",
        "A gray patch covered each place in turn: where the colour is warm the probability of the class fell, where it "
        "is blue the probability rose, and the bar gives the scale.",
        "image",
        inspect_occlusion,
    ),
    "feature-maps": Inspection(
        "Feature maps",
        "Follow the image from layer to layer: early feature maps still look like it, later ones are small and show "
        "only where a feature is; white is zero, warm is positive, blue is negative.",
        "image",
        inspect_feature_maps,
    ),
    "filters": Inspection(
        "Learned filters",
        "Filters of a well-trained first layer show smooth edges, blobs and colours; a filter that looks like noise "
        "has learned little.",
        "image",
        inspect_filters,
    ),
    "statistics": Inspection(
        "Layer by layer in numbers",
        "A layer whose values are nearly all zero passes little on, and a gradient a thousand times smaller than that "
        "of later layers means slow learning.",
        "image",
        inspect_statistics,
    ),
    "activating": Inspection(
        "Images that most activate a channel",
        "The images that most activate a channel show what it detects: find what they have in common.",
        "evidence",
        inspect_activating,
    ),
    "confusion": Inspection(
        "Confusion, with the images",
        "These are the images behind the numbers off the diagonal, largest loss first: decide whether you would have "
        "recognized them.",
        "evidence",
        inspect_confusion,
    ),
    "confused-pairs": Inspection(
        "Most confused pairs",
        "More or better images help most for classes that the network confuses with each other.",
        "evidence",
        inspect_confused_pairs,
    ),
    "calibration": Inspection(
        "Calibration",
        "Where the two lines of a chart coincide, the accuracy equals the confidence.",
        "evidence",
        inspect_calibration,
    ),
    "labels": Inspection(
        "Suspected label errors",
        "For these images the network gives another class a higher probability than that class's own images usually "
        "get: check whether the label is wrong.",
        "evidence",
        inspect_labels,
    ),
    "duplicates": Inspection(
        "Duplicates",
        "Measured images that are also training images make a network look better than it is: the accuracy without "
        "them estimates the accuracy on new images.",
        "evidence",
        inspect_duplicates,
    ),
}
"""Inspections in the order of the page."""
