"""Batch normalization on and off."""

from __future__ import annotations

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

UNIT = "conv {maps} 3x3 same; {norm}relu; "
LOW, HIGH = 0.003, 0.06
"""Learning rates: a usual one for Adam, and twenty times it."""


def variants() -> list[Variant]:
    """Return four convolutions with and without batch normalization, trained carefully and boldly."""
    return [
        make_variant(f"{name}, lr {lr:g}", network(norm), lr=lr)
        for lr in (LOW, HIGH)
        for name, norm in (("without", ""), ("with", "batch-norm; "))
    ]


def network(norm: str) -> str:
    """Return four convolutions with this after each."""
    wide, narrow = (UNIT.format(maps=maps, norm=norm) for maps in (16, 8))
    return f"{narrow}max-pool 2; {wide}max-pool 2; {wide}{wide}linear 10"


LAB = variants_lab(
    "What does batch normalization change, at a low and at a high learning rate?",
    "Each learning rate has one row with and one without; the curves below show how training went.",
    variants,
    pairs=((f"without, lr {LOW:g}", f"with, lr {LOW:g}"), (f"without, lr {HIGH:g}", f"with, lr {HIGH:g}")),
    spoken="a network {}",
)
