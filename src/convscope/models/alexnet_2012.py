"""N6 `alexnet-2012`: the network that won ImageNet in 2012, with its two columns as groups."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import InputShape, convolution, flattened_size, local_response_norm, max_pool

COLUMNS = 2
"""Each of two graphics cards held half of the maps; the second, fourth and fifth convolution see their own half."""


def build_alexnet_2012(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network; 60,965,224 parameters for 224x224 RGB and 1,000 classes.

    Without the columns, every convolution seeing all maps, there would be 62,378,344. Two pixels of padding before the
    first convolution give the 55x55 maps that the paper's 224 pixels without padding cannot; 227 without padding give
    the same. Weights start after He, but for the last layer's, and biases at 0; the paper has a deviation of 0.01 and
    some biases of 1.

    Source: Krizhevsky et al., NIPS 2012, sections 3.3 to 3.5 and 4.2; columns also in
    https://code.google.com/archive/p/cuda-convnet (layers-imagenet-2gpu).
    """
    features = nn.Sequential(
        convolution(input_shape[0], 96, 11, stride=4, padding=2),
        nn.ReLU(),
        local_response_norm(),
        max_pool(3, stride=2),
        convolution(96, 256, 5, padding="same", groups=COLUMNS),
        nn.ReLU(),
        local_response_norm(),
        max_pool(3, stride=2),
        convolution(256, 384, 3, padding="same"),
        nn.ReLU(),
        convolution(384, 384, 3, padding="same", groups=COLUMNS),
        nn.ReLU(),
        convolution(384, 256, 3, padding="same", groups=COLUMNS),
        max_pool(3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
    )
    network = nn.Sequential(
        *features,
        nn.Dropout(0.5),
        nn.Linear(flattened_size(features, input_shape), 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, num_classes),
    )
    for layer in network[:-1]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
