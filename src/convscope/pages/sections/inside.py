"""Feature maps of one image."""

from convscope.pages.section import RecordedRun, evaluated, recorded, titled
from convscope.results.panels import Panel


@titled(
    "Inside the network",
    "Warm places of the image support the class; follow the feature maps from layer to layer, until one value is left "
    "for each class (white is zero, warm is positive, blue is negative).",
)
def section(run: RecordedRun) -> tuple[Panel, ...]:
    evaluated(run.results)
    return recorded(run.inside)
