"""N7 `cats-cnn`: a CNN for two classes of gray photos with a single output unit."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import BinaryLogit, InputShape, flattened_size


def build_cats_cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network; 4,737,473 parameters for 200x200 gray and two classes.

    With more than two classes the single output unit becomes K units.
    """
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], 32, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    dense = [nn.Linear(flattened_size(features, input_shape), 32), nn.ReLU()]
    head = [nn.Linear(32, 1), BinaryLogit()] if num_classes == 2 else [nn.Linear(32, num_classes)]
    return nn.Sequential(*features, *dense, *head)
