"""Max-pooling or a strided convolution?"""

from __future__ import annotations

from convscope.lab.equal_cost import match_macs
from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

POOLED = "conv 8 5x5 same; relu; max-pool 2; conv 16 5x5 same; relu; max-pool 2; linear 10"


def variants() -> list[Variant]:
    """Return networks that halve the maps twice: by pooling, by the convolutions' stride, by convolutions for it."""
    return [
        make_variant("max-pooling", POOLED),
        make_variant("strided convolution", strided(8)),
        make_variant("strided, as many MACs", match_macs(strided, POOLED)),
        make_variant(
            "a 2x2 convolution for each pool",
            "conv 8 5x5 same; relu; conv 8 2x2 /2; relu; conv 16 5x5 same; relu; conv 16 2x2 /2; relu; linear 10",
        ),
    ]


def strided(maps: int) -> str:
    """Return the network with strides in place of pooling."""
    return f"conv {maps} 5x5 /2 same; relu; conv {2 * maps} 5x5 /2 same; relu; linear 10"


LAB = variants_lab(
    "Max-pooling or a strided convolution, at equal stride?",
    "A strided convolution looks at every second place only, which saves three quarters of the operations; the third "
    "row spends them on more maps.",
    variants,
)
