"""N1 to N4 and N7: networks of plain layers, in the one-line notation without their last dense layer."""

from torch import nn

from convscope.errors import UsageError
from convscope.models.spec import InputShape
from convscope.models.stack.blocks import BinaryLogit, too_small
from convscope.models.stack.notation import build_stack, parse_stack

# ReLU comes after the pooling: max and ReLU commute, and the pooled feature map is a quarter of the work.
MLP = "flatten; linear 128; relu"
"""101,770 parameters for 28x28 gray and ten classes, as in the following three."""
CNN_SMALL = "conv 10 5x5; max-pool 2; relu; conv 20 5x5; dropout2d 0.5; max-pool 2; relu"
"""8,490 parameters: a twelfth of the MLP's."""
CNN = "conv 32 3x3 same; max-pool 2; relu; conv 64 3x3 same; max-pool 2; relu; linear 128; relu"
"""421,642 parameters."""
CNN_DROPOUT = "conv 32 3x3; max-pool 2; relu; conv 64 3x3; max-pool 2; relu; linear 128; relu; dropout 0.5"
"""225,034 parameters."""
CATS_CNN = "conv 32 3x3; max-pool 2; relu; conv 64 3x3; max-pool 2; relu; linear 32; relu"
"""4,737,473 parameters for 200x200 gray and two classes."""


def build_plain(layers: str, input_shape: InputShape, num_classes: int) -> nn.Sequential:
    """Return the network of these layers and a dense one for the classes; they are numbered, not named."""
    try:
        return nn.Sequential(*build_stack(parse_stack(f"{layers}; linear {num_classes}"), input_shape))
    except UsageError as error:  # it would advise other layers
        raise too_small(input_shape) from error


def build_cats_cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return N7, which has a single output unit for two classes, and K units for more."""
    if num_classes == 2:
        return build_plain(CATS_CNN, input_shape, 1).append(BinaryLogit())
    return build_plain(CATS_CNN, input_shape, num_classes)
