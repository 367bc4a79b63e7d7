"""Xception's depthwise separable convolution against plain ones of the same cost."""

from __future__ import annotations

from convscope.lab.equal_cost import match_macs
from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

PLAIN_MAPS = 16


def variants() -> list[Variant]:
    """Return plain convolutions, separable ones of as many maps, and separable ones of as many operations."""
    plain = network("conv", PLAIN_MAPS)
    return [
        make_variant("plain", plain),
        make_variant("separable, as many maps", network("separable", PLAIN_MAPS)),
        make_variant("separable, as many MACs", match_macs(lambda maps: network("separable", maps), plain)),
    ]


def network(kind: str, maps: int) -> str:
    """Return a convolution and three of this kind, with batch norm."""
    units = [f"{kind} {n} 3x3 same; batch-norm; relu; " for n in (maps, 2 * maps, 2 * maps)]
    return f"conv 8 3x3 /2 same; batch-norm; relu; {units[0]}max-pool 2; {units[1]}{units[2]}global-pool; linear 10"


LAB = variants_lab(
    "Is a depthwise separable convolution, as in Xception, better than a plain one?",
    "The second row does far fewer operations than the first, the third as many with wider layers.",
    variants,
)
