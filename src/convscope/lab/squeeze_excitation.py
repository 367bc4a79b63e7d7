"""SENet's squeeze-and-excitation against the same network without, at equal cost."""

from __future__ import annotations

from convscope.lab.equal_cost import match_macs
from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

REDUCTION = 4


def variants() -> list[Variant]:
    """Return three convolutions with the block after each, and without; the plain one may be a little wider."""
    return [
        make_variant("plain", match_macs(lambda maps: network(maps, ""), network(8, f"se {REDUCTION}; "))),
        make_variant("squeeze-and-excitation", network(8, f"se {REDUCTION}; ")),
    ]


def network(maps: int, block: str) -> str:
    """Return three convolutions with batch norm, the block after each."""
    units = [f"conv {n} 3x3 same; batch-norm; relu; {block}" for n in (maps, 2 * maps, 2 * maps)]
    return f"{units[0]}max-pool 2; {units[1]}max-pool 2; {units[2]}global-pool; linear 10"


LAB = variants_lab(
    "Does SENet's squeeze-and-excitation help at equal cost?",
    "The block weighs each map by a number between 0 and 1; it has few parameters and hardly any operations.",
    variants,
)
