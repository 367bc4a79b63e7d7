"""GoogLeNet's inception block against plain convolutions of the same cost."""

from __future__ import annotations

from convscope.lab.equal_cost import match_macs
from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

HEAD, TAIL = "conv 8 5x5 /2 same; batch-norm; relu; ", "global-pool; linear 10"
INCEPTION = f"{HEAD}inception 24; max-pool 2; inception 32; {TAIL}"


def variants() -> list[Variant]:
    """Return two inception blocks, and in their place 3x3 or 5x5 convolutions of as many operations."""
    return [
        make_variant("inception", INCEPTION),
        make_variant("3x3 convolutions", match_macs(lambda maps: plain(maps, "3x3"), INCEPTION)),
        make_variant("5x5 convolutions", match_macs(lambda maps: plain(maps, "5x5"), INCEPTION)),
    ]


def plain(maps: int, kernel: str) -> str:
    """Return the network with a plain convolution in place of each block, the second a third wider."""
    first, second = (f"conv {n} {kernel} same; batch-norm; relu; " for n in (maps, maps + maps // 3))
    return f"{HEAD}{first}max-pool 2; {second}{TAIL}"


LAB = variants_lab(
    "Is GoogLeNet's inception block better than plain convolutions that cost the same?",
    "All networks do about as many operations; they differ in how these are spent.",
    variants,
)
