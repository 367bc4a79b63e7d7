"""The laboratory: questions about convolutional networks, each answered by an experiment that measures."""

from __future__ import annotations

from convscope.lab import (
    activation,
    alexnet,
    batch_norm,
    dense_to_conv,
    distributions,
    dropout,
    inception,
    lrn,
    memory,
    normalize,
    padding,
    parameters,
    pooling,
    residual,
    separable,
    squeeze_excitation,
    stride,
    translation,
)
from convscope.lab.experiment import Lab

LABS: dict[str, Lab] = {
    "pooling": pooling.LAB,
    "padding": padding.LAB,
    "stride": stride.LAB,
    "translation": translation.LAB,
    "activation": activation.LAB,
    "batch-norm": batch_norm.LAB,
    "lrn": lrn.LAB,
    "normalize": normalize.LAB,
    "dropout": dropout.LAB,
    "distributions": distributions.LAB,
    "dense-to-conv": dense_to_conv.LAB,
    "parameters": parameters.LAB,
    "memory": memory.LAB,
    "alexnet": alexnet.LAB,
    "inception": inception.LAB,
    "residual": residual.LAB,
    "squeeze-excitation": squeeze_excitation.LAB,
    "separable": separable.LAB,
}
"""Every experiment by the name that `convscope lab` takes."""
