"""The laboratory: questions about convolutional networks, each answered by an experiment."""

from convscope.experiments import (
    activation,
    comparisons,
    dense_to_conv,
    distributions,
    memory,
    parameters,
    translation,
)
from convscope.experiments.experiment import Lab

LABS: dict[str, Lab] = {
    "pooling": comparisons.POOLING,
    "padding": comparisons.PADDING,
    "stride": comparisons.STRIDE,
    "translation": translation.LAB,
    "activation": activation.LAB,
    "batch-norm": comparisons.BATCH_NORM,
    "lrn": comparisons.LRN,
    "normalize": comparisons.NORMALIZE,
    "dropout": comparisons.DROPOUT,
    "distributions": distributions.LAB,
    "dense-to-conv": dense_to_conv.LAB,
    "parameters": parameters.LAB,
    "memory": memory.LAB,
    "alexnet": comparisons.ALEXNET,
    "inception": comparisons.INCEPTION,
    "residual": comparisons.RESIDUAL,
    "squeeze-excitation": comparisons.SQUEEZE_EXCITATION,
    "separable": comparisons.SEPARABLE,
}
"""Experiments by name, as `convscope lab` takes it."""
