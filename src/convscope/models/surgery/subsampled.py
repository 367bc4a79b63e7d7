"""1x1 convolutions with a stride, computed in a way that oneDNN gets right.

oneDNN 3.12 writes past its workspace in the weight gradient of a 1x1 convolution with stride 2 and above, 2 to 15 input
channels and channels-last operands, from about 40 pixels up: the process dies, or its memory is silently wrong. Taking
every n-th pixel first and convolving with stride 1 gives the same numbers by another kernel.
`tests/test_subsampled.py` says when torch no longer needs this.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """torch's convolution with a 1x1 kernel, which takes every n-th pixel first; named like torch's in tables."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what torch's convolution returns for [B, C, H, W] or [C, H, W]."""
        rows, columns = self.stride
        x = input[..., ::rows, ::columns]
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


def subsample_before_convolution(model: nn.Module) -> nn.Module:
    """Return the model, whose 1x1 convolutions with a stride and few input channels are computed the safe way.

    Names, weights, hooks and results stay. Calls of `torch.nn.functional.conv2d` and subclasses of torch's convolution
    with a `forward` of their own stay as they are; no classifier of torchvision or timm has one that is concerned.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_concerned(module):
            module.__class__ = Conv2d
    return model


def _is_concerned(layer: nn.Conv2d) -> bool:
    strided = layer.kernel_size == (1, 1) and max(layer.stride) > 1
    unpadded = layer.padding in ((0, 0), "valid")
    return strided and unpadded and 1 < layer.in_channels // layer.groups < 16
