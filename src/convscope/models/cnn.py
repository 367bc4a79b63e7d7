"""N3 `cnn` and N4 `cnn-dropout`: two 3x3 convolutions and a dense layer, with same and with valid padding."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import InputShape, flattened_size


def build_cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """N3: same padding, no dropout; 421,642 parameters for 28x28 gray and ten classes."""
    return _build(input_shape, num_classes, padding=1, dropout=0.0)


def build_cnn_dropout(input_shape: InputShape, num_classes: int) -> nn.Module:
    """N4: valid padding, dropout 0.5 before the last layer; 225,034 parameters for 28x28 gray and ten classes."""
    return _build(input_shape, num_classes, padding=0, dropout=0.5)


def _build(input_shape: InputShape, num_classes: int, *, padding: int, dropout: float) -> nn.Module:
    # ReLU stands after the pooling: max and ReLU commute, and the pooled map is a quarter of the work.
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], 32, 3, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    dense = [nn.Linear(flattened_size(features, input_shape), 128), nn.ReLU()]
    regularized = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*features, *dense, *regularized, nn.Linear(128, num_classes))
