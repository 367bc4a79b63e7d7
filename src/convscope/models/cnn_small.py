"""N2 `cnn-small`: a CNN with a twelfth of the MLP's parameters."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import InputShape, flattened_size


def build_cnn_small(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Two valid 5x5 convolutions with max-pooling and dropout2d; 8,490 parameters for 28x28 gray and ten classes."""
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.Dropout2d(0.5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(flattened_size(features, input_shape), num_classes))
