"""Does local response normalization help?"""

from __future__ import annotations

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

NETWORK = "conv 8 5x5 same; relu; {0}max-pool 2; conv 16 5x5 same; relu; {0}max-pool 2; linear 10"


def variants() -> list[Variant]:
    """Return a network without normalization of its maps, with AlexNet's, and with batch normalization."""
    norms = {"no normalization": "", "local response norm": "lrn 5; ", "batch norm": "batch-norm; "}
    return [make_variant(name, NETWORK.format(norm)) for name, norm in norms.items()]


LAB = variants_lab(
    "Does local response normalization help, and how does it compare with batch normalization?",
    "The first two rows differ in AlexNet's normalization alone; the third has what took its place.",
    variants,
)
