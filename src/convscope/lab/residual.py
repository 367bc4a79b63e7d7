"""ResNet's shortcuts: the same convolutions with and without, shallow and deep."""

from __future__ import annotations

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

HEAD, TAIL = "conv 8 3x3 /2 same; batch-norm; relu; ", "max-pool 2; linear 10"
BLOCKS = {"residual": "residual 8; ", "plain": "conv 8 3x3 same; batch-norm; relu; conv 8 3x3 same; batch-norm; relu; "}
SHALLOW, DEEP = 2, 12
"""Blocks of two convolutions each."""


def variants() -> list[Variant]:
    """Return blocks of two convolutions with and without a shortcut, which costs neither parameters nor MACs.

    A stack's convolutions have a bias before batch norm, where it does nothing; those of the block have none.
    """
    return [
        make_variant(f"{kind}, {2 * blocks} convolutions", HEAD + BLOCKS[kind] * blocks + TAIL)
        for blocks in (SHALLOW, DEEP)
        for kind in ("plain", "residual")
    ]


LAB = variants_lab(
    "What do ResNet's shortcuts give, in a shallow and in a deep network?",
    "At each depth one row has shortcuts and one has none; operations are the same, and parameters but for idle "
    "biases.",
    variants,
    seeds=5,
    pairs=tuple((f"plain, {2 * n} convolutions", f"residual, {2 * n} convolutions") for n in (SHALLOW, DEEP)),
)
