"""Whether a source holds colour photos, from a few of its files: what trained weights for photos are of use for."""

import statistics
from itertools import islice

import numpy as np

from convscope.config import DataConfig
from convscope.data.decode.decode import Decoded, decode_rgb
from convscope.data.decode.files import Entry, Listing
from convscope.data.load import DATASETS, existing_path
from convscope.data.sources.image_files import open_image_files
from convscope.seeds import permutation

LOOKED_AT = 16
"""Files that are decoded to find out."""
SMALLEST_PHOTO_PX = 48
"""Shorter side from which on an image counts as a photo; smaller ones, as in CIFAR-10, are not enlarged for this."""


def are_colour_photos(config: DataConfig) -> bool:
    """Return whether most images of a folder, archive or CSV are in colour and not tiny; files that fail do not count.

    Raises:
        UsageError, DataError: there is no such source, or it cannot be read.
    """
    if config.source in DATASETS or config.gray:
        return False
    with open_image_files(existing_path(config.source), Listing()) as files:
        if isinstance(files.entries, list):
            chosen = [files.entries[i] for i in permutation(len(files.entries), "photos")[:LOOKED_AT]]
        else:  # a tar is read from its beginning
            chosen = list(islice(files.entries, LOOKED_AT))
        images = [image for entry in chosen if (image := _decode(entry, config)) is not None]
    if not images:
        return False
    in_colour = [bool((image.image != image.image[..., :1]).any()) for image in images]
    return statistics.mean(in_colour) > 0.5 and np.median([min(i.source_size) for i in images]) >= SMALLEST_PHOTO_PX


def _decode(entry: Entry, config: DataConfig) -> Decoded | None:
    try:
        found = decode_rgb(entry.read(), entry.name, max_pixels=config.max_pixels)
    except (OSError, MemoryError):  # training says so
        return None
    return found if isinstance(found, Decoded) else None
