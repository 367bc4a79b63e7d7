"""N5 `lenet5`: LeNet-5 with sigmoids and average pooling."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import InputShape, flattened_size


def build_lenet5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return LeNet-5; 61,706 parameters for 28x28 gray and ten classes.

    Returns logits: the softmax belongs to the loss, which would otherwise apply it twice. Weights start after
    Glorot, which keeps the gradient alive through four sigmoids.

    Source: LeCun et al., Proc. IEEE 86 (1998) 2278-2324; as there, the third convolution spans its whole input map
    (for 28x28 pictures); other than there, the second one sees all six maps and the outputs are linear.
    """
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5),
        nn.Sigmoid(),
        nn.Flatten(),
    )
    network = nn.Sequential(
        *features, nn.Linear(flattened_size(features, input_shape), 84), nn.Sigmoid(), nn.Linear(84, num_classes)
    )
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return network
