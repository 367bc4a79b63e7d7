"""N6 `alexnet-2012`: the network that won ImageNet in 2012, with its two columns as groups."""

from torch import nn

from convscope.models.spec import InputShape
from convscope.models.stack.blocks import convolution, flattened_size, local_response_norm, max_pool

COLUMNS = 2
"""Each of two graphics cards held half of the feature maps; convolutions 2, 4 and 5 see only the half on their card."""


def build_alexnet_2012(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network; 60,965,224 parameters for 224x224 RGB and 1,000 classes.

    Without the columns, if every convolution saw all feature maps, there would be 62,378,344. Two pixels of padding in
    the first convolution give the paper's 55x55 feature maps, which 224 pixels without padding cannot. All weights but
    the last layer's have He initialization, and biases start at 0; in the paper weights have a standard deviation of
    0.01 and some biases start at 1.

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
        nn.Linear(flattened_size(features, input_shape), 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )
    for layer in network[:-1]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
