"""Feature maps of one image."""

from convscope.pages.section import RecordedRun, evaluated, recorded, titled
from convscope.results.panels import Panel


@titled(
    "Inside the network",
    lambda run: (
        f"The image is the first of the shuffled {run.split} split, the same as in the predictions above: warm "
        "places support the class; follow the feature maps from layer to layer, until one value is left for each class "
        "(white is zero, warm is positive, blue is negative)."
    ),
)
def section(run: RecordedRun) -> tuple[Panel, ...]:
    evaluated(run.results)
    return recorded(run.inside)
