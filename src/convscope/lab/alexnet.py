"""The parts of AlexNet, one left out at a time."""

from __future__ import annotations

from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab

NETWORK = (
    "conv 12 5x5 /2 same; {act}; {norm}{pool}; conv 24 3x3 same; {act}; {norm}{pool}; conv 24 3x3 same; {act}; "
    "linear 64; {act}; {drop}linear 10"
)
"""As in AlexNet the first convolution takes strides."""
PARTS = {"act": "relu", "norm": "lrn 5; ", "pool": "max-pool 3 /2 same", "drop": "dropout 0.5; "}


def variants() -> list[Variant]:
    """Return a small AlexNet, and the same with a part as it was usual before; none changes parameters or MACs."""
    changes = {
        "all parts": {},
        "tanh for ReLU": {"act": "tanh"},
        "no local response norm": {"norm": ""},
        "pools that do not overlap": {"pool": "max-pool 2 same"},
        "no dropout": {"drop": ""},
    }
    return [make_variant(name, NETWORK.format(**(PARTS | change)), epochs=14) for name, change in changes.items()]


LAB = variants_lab(
    "Which parts of AlexNet matter: ReLU, local response normalization, overlapping pooling, dropout?",
    "Each row but the first leaves one part out; all networks have the same parameters and operations.",
    variants,
    spoken="“{}”",
)
