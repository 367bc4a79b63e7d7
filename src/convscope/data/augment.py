"""Random changes to training images, a whole batch at a time.

Each augmentation takes the images and a source of random numbers keyed by (seed, epoch, image), so the rest of the
batch does not influence what happens to an image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convscope.seeds import uniform as uniform_of

Uniform = Callable[[], Tensor]
"""Each call returns new numbers in [0, 1), one for each image: float32 [B]."""
Augmentation = Callable[[Tensor, Uniform], Tensor]
"""Takes and returns images in 0..1, float32 [B, C, H, W]."""

ROTATION_DEGREES = 12.0
ZOOM = 0.12
COLOR_STRENGTH = 0.3
LEAST_ERASED, MOST_ERASED = 0.02, 0.2
"""Range of the fraction of an image that is covered."""
MAX_ERASED_ASPECT = 3.0
MIXUP = "mixup"
"""The augmentation that changes labels too; it is not a function of single images."""
MIXUP_ALPHA = 0.2
"""Parameter of the Beta distribution of the shares: mostly one image is clear and the other faint."""


def flip(images: Tensor, uniform: Uniform) -> Tensor:
    """Mirror half of the images left to right."""
    return torch.where((uniform() < 0.5)[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, uniform: Uniform) -> Tensor:
    """Shift each image by up to an eighth of its side, in whole pixels; the gap is filled by reflection."""
    _, _, height, width = images.shape
    reach = max(1, min(height, width) // 8)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    down, right = ((uniform() * (2 * reach + 1)).long() for _ in range(2))
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def rotate(images: Tensor, uniform: Uniform) -> Tensor:
    """Rotate each image about its centre by up to 12 degrees either way, bilinear; the border is repeated."""
    angle = (uniform() * 2 - 1) * math.radians(ROTATION_DEGREES)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(images, torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3))


def zoom(images: Tensor, uniform: Uniform) -> Tensor:
    """Enlarge or shrink each image by up to 12 %, bilinear; the border is repeated."""
    scale = 1 + (uniform() * 2 - 1) * ZOOM
    zero = torch.zeros_like(scale)
    return _affine(images, torch.stack([scale, zero, zero, zero, scale, zero], dim=1).view(-1, 2, 3))


def color(images: Tensor, uniform: Uniform) -> Tensor:
    """Change brightness, contrast and (in RGB images) saturation by up to 30 % each."""
    brightness, contrast, saturation = (1 + (uniform() * 2 - 1) * COLOR_STRENGTH for _ in range(3))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    changed = (images - mean) * contrast[:, None, None, None] + mean * brightness[:, None, None, None]
    if images.shape[1] == 3:
        gray = changed.mean(dim=1, keepdim=True)
        changed = gray + (changed - gray) * saturation[:, None, None, None]
    return changed.clamp(0, 1)


def erase(images: Tensor, uniform: Uniform) -> Tensor:
    """Cover a rectangle in half of the images, 2 to 20 % of the area and up to 3:1, anywhere, with the image's mean.

    Source: Z. Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """
    _, _, height, width = images.shape
    chosen, area = uniform() < 0.5, LEAST_ERASED + uniform() * (MOST_ERASED - LEAST_ERASED)
    aspect = torch.exp((uniform() * 2 - 1) * math.log(MAX_ERASED_ASPECT))
    tall = ((area * aspect).sqrt() * height).clamp(1, height).round()
    wide = ((area / aspect).sqrt() * width).clamp(1, width).round()
    top, left = ((uniform() * (height - tall + 1)).floor(), (uniform() * (width - wide + 1)).floor())
    rows = torch.arange(height, device=images.device) - top[:, None]
    columns = torch.arange(width, device=images.device) - left[:, None]
    inside = ((rows >= 0) & (rows < tall[:, None]))[:, :, None] & ((columns >= 0) & (columns < wide[:, None]))[:, None]
    covered = (inside & chosen[:, None, None])[:, None]
    return torch.where(covered, images.mean(dim=(2, 3), keepdim=True), images)


AUGMENTATIONS: dict[str, Augmentation] = {each.__name__: each for each in (flip, crop, rotate, zoom, color, erase)}
"""Augmentations of single images; mixup is not among them."""


class Mixture(NamedTuple):
    """Numbers of the images that mixup mixes into those of a batch, and shares, 0.5 to 1, of the images themselves."""

    partners: NDArray[np.int64]
    shares: NDArray[np.float32]


def mixup_of(numbers: NDArray[np.int64], n: int, *words: int | str) -> Mixture:
    """Return with which of n training images the images of these numbers are mixed; it depends on (words, image) alone.

    Source: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; there partners come from the batch.
    """
    from scipy.special import betaincinv  # scipy is imported only for mixup

    partners = (uniform_of(numbers, *words, "partner").astype(np.float64) * n).astype(np.int64)
    shares = betaincinv(MIXUP_ALPHA, MIXUP_ALPHA, uniform_of(numbers, *words, "share").astype(np.float64))
    return Mixture(partners, np.maximum(shares, 1 - shares).astype(np.float32))


def _affine(images: Tensor, transform: Tensor) -> Tensor:
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
