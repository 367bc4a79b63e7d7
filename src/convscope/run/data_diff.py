"""The images of a data set that changed since a run was started with it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.data.dataset import ImageSet
from convscope.storage.files import read_array, read_csv, write_array
from convscope.storage.schemas import damaged

DIGESTS = "digests.npy"
"""A hash of the pixels of each image, uint64 [N], in the order of split.csv."""
SHOWN = 3


def write_digests(run: Path, images: ImageSet) -> None:
    """Write the hash of each image of a data set."""
    write_array(run / DIGESTS, images.digests)


def read_digests(run: Path, num_images: int) -> NDArray[np.uint64] | None:
    """Return the hash of each image, uint64 [N], None if the run has none; raises RunError where there are not N."""
    if not (run / DIGESTS).exists():
        return None
    digests = read_array(run / DIGESTS)
    if digests.shape != (num_images,) or digests.dtype != np.uint64:
        raise damaged(f"{run / DIGESTS} is {digests.dtype} {digests.shape} for the {num_images} images of split.csv")
    return digests


def describe_change(run: Path, images: ImageSet) -> str:
    """Return what differs, as "; 6 of 90 images differ; missing: a.jpg, b.jpg and 4 more"; "" if nothing does.

    Raises:
        RunError: the records of the run are damaged.
    """
    rows = read_csv(run / "split.csv")
    labels = {row["image"]: row["label"] for row in rows}
    digests = read_digests(run, len(labels))
    before = None if digests is None else dict(zip(labels, digests.tolist(), strict=True))
    changes: dict[str, list[str]] = {"missing": [], "new": [], "other content": [], "other label": []}
    changes["missing"] = sorted(labels.keys() - set(images.ids))
    for image, label, digest in zip(images.ids, images.labels, images.digests.tolist(), strict=True):
        if image not in labels:
            changes["new"].append(image)
        elif labels[image] != images.class_names[label]:
            changes["other label"].append(image)
        elif before is not None and before[image] != digest:
            changes["other content"].append(image)
    gone = sum(len(names) for kind, names in changes.items() if kind != "new")
    listed = "".join(f"; {kind}: {_listed(names)}" for kind, names in changes.items() if names)
    return f"; {gone:,} of {len(rows):,} images differ{listed}" if listed else ""


def _listed(images: list[str]) -> str:
    more = len(images) - SHOWN
    return ", ".join(images[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
