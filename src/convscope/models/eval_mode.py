"""The modes of a network: running it without changing them, and the layers whose mode matters most."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; afterwards every module has the mode it had before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def batch_norms(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the batch norms: in training mode the output for an image depends on the others in its batch."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return (module for module in network.modules() if isinstance(module, kinds))
