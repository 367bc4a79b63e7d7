"""Dropout of single values and of whole maps."""

from __future__ import annotations

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

NETWORK = "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; {maps}max-pool 2; linear 64; relu; {values}linear 10"


def variants() -> list[Variant]:
    """Return one network without dropout, with it on the dense layer, on the maps, and on both."""
    kinds = {
        "no dropout": ("", ""),
        "dropout 0.5 of values": ("", "dropout 0.5; "),
        "dropout2d 0.2 of maps": ("dropout2d 0.2; ", ""),
        "both": ("dropout2d 0.2; ", "dropout 0.5; "),
    }
    return [
        make_variant(name, NETWORK.format(maps=maps, values=values), epochs=18)
        for name, (maps, values) in kinds.items()
    ]


LAB = variants_lab(
    "What does dropout change, of single values and of whole maps?",
    "Dropout makes training harder on purpose: the curves rise more slowly, what counts is where they end.",
    variants,
)
