"""Normalization of the input on and off."""

from __future__ import annotations

from typing import Any

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

NETWORK = "conv 8 5x5 same; relu; max-pool 2; conv 16 5x5 same; relu; max-pool 2; linear 10"
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9}


def variants() -> list[Variant]:
    """Return one network with mean 0 and deviation 1 at its input and with pixels from 0 to 1, trained in two ways."""
    return [
        make_variant(f"{name}, {optimizer}", NETWORK, normalize=on, **settings)
        for optimizer, settings in (("SGD", SGD), ("Adam", {}))
        for name, on in (("pixels 0..1", False), ("normalized", True))
    ]


LAB = variants_lab(
    "Does it help to normalize the pictures?",
    "Each optimizer has one row with pixels as they are, divided by 255, and one with mean 0 and deviation 1.",
    variants,
    pairs=(("pixels 0..1, SGD", "normalized, SGD"), ("pixels 0..1, Adam", "normalized, Adam")),
    spoken="{}",
)
