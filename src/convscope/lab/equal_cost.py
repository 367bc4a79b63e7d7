"""Networks of equal cost: what is left out of one is made up for in width, so that only the part differs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from convscope.budget.costs import count_macs
from convscope.config import STACK, ModelConfig
from convscope.models import build_shapes

INPUT_SHAPE, NUM_CLASSES = (1, 28, 28), 10
"""Of mnist5k."""
MAX_WIDTH = 512


def stack_macs(stack: str) -> int:
    """Return the multiply-accumulate operations of a network in the one-line notation, for one digit, forward."""
    return count_macs(build_shapes(ModelConfig(name=STACK, stack=stack), INPUT_SHAPE, NUM_CLASSES), INPUT_SHAPE)


def match_macs(stack_of: Callable[[int], str], reference: str, *, least: int = 1) -> str:
    """Return the stack whose operations are nearest to those of a reference.

    Args:
        stack_of: the stack of a width; wider ones cost more.
        least: the smallest width that can be built.
    """
    wanted = stack_macs(reference)
    widths = range(least, MAX_WIDTH)
    above = bisect_left(widths, wanted, key=lambda width: stack_macs(stack_of(width)))
    near = {widths[max(0, above - 1)], widths[min(above, len(widths) - 1)]}
    return stack_of(min(near, key=lambda width: abs(stack_macs(stack_of(width)) - wanted)))
