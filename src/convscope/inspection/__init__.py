"""Looking into trained networks: each inspection computes panels from a Subject and leaves no mark on it."""

from __future__ import annotations

from convscope.inspection.feature_maps import inspect_feature_maps
from convscope.inspection.filters import inspect_filters
from convscope.inspection.grad_cam import inspect_grad_cam
from convscope.inspection.occlusion import inspect_occlusion
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
}
"""Ways of looking, in the order of the page."""
