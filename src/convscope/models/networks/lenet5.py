"""N5 `lenet5`: LeNet-5 with sigmoids and average pooling."""

from torch import nn

from convscope.models.spec import InputShape
from convscope.models.stack.blocks import flattened_size


def build_lenet5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return LeNet-5; 61,706 parameters for 28x28 gray and ten classes.

    It returns logits; the loss applies the softmax. Glorot initialization keeps the gradient from vanishing in four
    sigmoids.

    Source: LeCun et al., Proc. IEEE 86 (1998) 2278-2324. As in the paper, the third convolution spans its whole input
    (for 28x28 images). Unlike the paper, the second one sees all six feature maps and the outputs are linear.
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
