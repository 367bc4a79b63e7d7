"""Networks of equal cost: a network without some block is widened until it costs as much as the one with it."""

from bisect import bisect_left
from collections.abc import Callable

from convscope.config import STACK, ModelConfig, RunConfig
from convscope.memory.macs import count_macs
from convscope.memory.predict import predict_memory
from convscope.models import build_shapes, count_parameters
from convscope.results.memory import Budget

INPUT_SHAPE, NUM_CLASSES = (1, 28, 28), 10
"""Of mnist5k."""
MAX_WIDTH = 512


def stack_macs(stack: str) -> int:
    """Return the multiply-accumulate operations of a forward pass of one digit through a stack."""
    return count_macs(build_shapes(ModelConfig(name=STACK, stack=stack), INPUT_SHAPE, NUM_CLASSES), INPUT_SHAPE)


def stack_parameters(stack: str) -> int:
    """Return the number of parameters of a stack for digits."""
    return count_parameters(build_shapes(ModelConfig(name=STACK, stack=stack), INPUT_SHAPE, NUM_CLASSES))


def match_macs(stack_of: Callable[[int], str], reference: str, cost: Callable[[str], int] = stack_macs) -> str:
    """Return the stack whose MACs are closest to those of a reference.

    Args:
        stack_of: returns the stack of a width; wider ones cost more.
        cost: what is to be equal, if not the MACs.
    """
    wanted = cost(reference)
    widths = range(1, MAX_WIDTH)
    above = bisect_left(widths, wanted, key=lambda width: cost(stack_of(width)))
    near = {widths[max(0, above - 1)], widths[min(above, len(widths) - 1)]}
    return stack_of(min(near, key=lambda width: abs(cost(stack_of(width)) - wanted)))


def match_parameters(stack_of: Callable[[int], str], reference: str) -> str:
    """Return the stack whose number of parameters is closest to that of a reference; see `match_macs`."""
    return match_macs(stack_of, reference, stack_parameters)


def layer_costs(config: RunConfig) -> Budget:
    """Return what the network of a run costs, layer by layer, in training on batches of its size."""
    network = build_shapes(config.model, INPUT_SHAPE, NUM_CLASSES)
    return predict_memory(
        network, INPUT_SHAPE, batch_size=config.train.batch_size, train=config.train, name=config.model.name
    )
