"""One picture on its way through the network."""

from __future__ import annotations

from convscope.report.section import NOT_EVALUATED, NOT_RECORDED, RecordedRun, Section


def inside_section(run: RecordedRun) -> Section:
    """Return what the layers made of one picture, as the run recorded it."""
    title = "Inside the network"
    intro = (
        "Warm places of the picture speak for a class: from layer to layer the maps turn from pictures into features, "
        "until one value is left for each class; white is zero, warm is positive, blue is negative."
    )
    if run.results is None:
        return Section(title, intro, missing=NOT_EVALUATED)
    if run.inside is None:
        return Section(title, intro, missing=NOT_RECORDED)
    return Section(title, intro, run.inside)
