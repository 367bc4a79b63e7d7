"""Which pooling?"""

from __future__ import annotations

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

NETWORK = "conv 8 5x5 same; batch-norm; relu; {0}; conv 16 5x5 same; batch-norm; relu; {1}; linear 10"


def variants() -> list[Variant]:
    """Return the same network with six kinds of pooling; after global pooling the last layer is a smaller one."""
    kinds = {
        "max": ("max-pool 2", "max-pool 2"),
        "overlapping max": ("max-pool 3 /2 same", "max-pool 3 /2 same"),
        "average": ("average-pool 2", "average-pool 2"),
        "min": ("min-pool 2", "min-pool 2"),
        "max and global average": ("max-pool 2", "global-pool"),
        "max and global max": ("max-pool 2", "global-pool max"),
    }
    return [make_variant(name, NETWORK.format(*pools)) for name, pools in kinds.items()]


LAB = variants_lab(
    "Which pooling: max, average, min, overlapping or global?",
    "Each pale dot is one network; where the intervals lie far apart, the kind of pooling matters.",
    variants,
    spoken="{} pooling",
)
