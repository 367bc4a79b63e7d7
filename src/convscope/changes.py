"""Which pictures of a data set have changed since a run was started with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convscope.data.image_set import ImageSet
from convscope.runs import read_csv, write_array

DIGESTS = "digests.npy"
"""A hash of the pixels of each picture, uint64 [N], in the order of split.csv."""
SHOWN = 3


def write_digests(run: Path, images: ImageSet) -> None:
    """Write down what tells each picture of a data set from what it may become."""
    write_array(run / DIGESTS, images.digests)


def describe_change(run: Path, images: ImageSet) -> str:
    """Return what is missing, new or different, as "; missing: a.jpg, b.jpg and 4 more"; "" if nothing can be told."""
    rows = read_csv(run / "split.csv")
    labels = {row["picture"]: row["label"] for row in rows}
    digests = np.load(run / DIGESTS, allow_pickle=False) if (run / DIGESTS).exists() else None
    before = None if digests is None else dict(zip(labels, digests.tolist(), strict=True))
    changes: dict[str, list[str]] = {"missing": [], "new": [], "other content": [], "other label": []}
    changes["missing"] = sorted(labels.keys() - set(images.ids))
    for picture, label, digest in zip(images.ids, images.labels, images.digests.tolist(), strict=True):
        if picture not in labels:
            changes["new"].append(picture)
        elif labels[picture] != images.class_names[label]:
            changes["other label"].append(picture)
        elif before is not None and before[picture] != digest:
            changes["other content"].append(picture)
    return "".join(f"; {kind}: {_listed(pictures)}" for kind, pictures in changes.items() if pictures)


def _listed(pictures: list[str]) -> str:
    more = len(pictures) - SHOWN
    return ", ".join(pictures[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
