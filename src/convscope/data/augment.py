"""Random changes to training pictures, a whole batch at a time.

Each one is a function of the pictures and of one source of random numbers that is keyed by (seed, epoch, picture),
so a picture is changed in the same way whatever else is in its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convscope.randomness import uniform as uniform_of

Uniform = Callable[[], Tensor]
"""Each call returns fresh numbers in [0, 1), one a picture: float32 [B]."""
Augmentation = Callable[[Tensor, Uniform], Tensor]
"""Takes and returns pictures in 0..1, float32 [B, C, H, W]."""

ROTATION_DEGREES = 12.0
ZOOM = 0.12
COLOR_STRENGTH = 0.3
LEAST_ERASED, MOST_ERASED = 0.02, 0.2
"""Share of a picture that is covered."""
MAX_ERASED_ASPECT = 3.0
MIXUP = "mixup"
"""The augmentation that changes labels too, so that it is no function of single pictures."""
MIXUP_ALPHA = 0.2
"""Of the Beta distribution of the shares: mostly one picture shows clearly and the other faintly."""


def flip(pictures: Tensor, uniform: Uniform) -> Tensor:
    """Mirror half of the pictures left to right."""
    return torch.where((uniform() < 0.5)[:, None, None, None], pictures.flip(3), pictures)


def crop(pictures: Tensor, uniform: Uniform) -> Tensor:
    """Move each picture by up to an eighth of its side, whole pixels; the border is mirrored into the gap."""
    _, _, height, width = pictures.shape
    reach = max(1, min(height, width) // 8)
    padded = F.pad(pictures, (reach,) * 4, mode="reflect")
    down, right = ((uniform() * (2 * reach + 1)).long() for _ in range(2))
    rows = down[:, None] + torch.arange(height, device=pictures.device)
    columns = right[:, None] + torch.arange(width, device=pictures.device)
    batch = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def rotate(pictures: Tensor, uniform: Uniform) -> Tensor:
    """Turn each picture about its centre by up to 12 degrees either way, bilinear; the border is repeated."""
    angle = (uniform() * 2 - 1) * math.radians(ROTATION_DEGREES)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(pictures, torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3))


def zoom(pictures: Tensor, uniform: Uniform) -> Tensor:
    """Enlarge or shrink each picture by up to 12 %, bilinear; the border is repeated."""
    scale = 1 + (uniform() * 2 - 1) * ZOOM
    zero = torch.zeros_like(scale)
    return _affine(pictures, torch.stack([scale, zero, zero, zero, scale, zero], dim=1).view(-1, 2, 3))


def color(pictures: Tensor, uniform: Uniform) -> Tensor:
    """Change brightness, contrast and (of RGB pictures) saturation by up to 30 % each."""
    brightness, contrast, saturation = (1 + (uniform() * 2 - 1) * COLOR_STRENGTH for _ in range(3))
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    changed = (pictures - mean) * contrast[:, None, None, None] + mean * brightness[:, None, None, None]
    if pictures.shape[1] == 3:
        gray = changed.mean(dim=1, keepdim=True)
        changed = gray + (changed - gray) * saturation[:, None, None, None]
    return changed.clamp(0, 1)


def erase(pictures: Tensor, uniform: Uniform) -> Tensor:
    """Cover a rectangle of 2 to 20 % of half of the pictures, of any place and up to 3:1, with the picture's mean.

    Source: Z. Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """
    _, _, height, width = pictures.shape
    chosen, area = uniform() < 0.5, LEAST_ERASED + uniform() * (MOST_ERASED - LEAST_ERASED)
    aspect = torch.exp((uniform() * 2 - 1) * math.log(MAX_ERASED_ASPECT))
    tall = ((area * aspect).sqrt() * height).clamp(1, height).round()
    wide = ((area / aspect).sqrt() * width).clamp(1, width).round()
    top, left = ((uniform() * (height - tall + 1)).floor(), (uniform() * (width - wide + 1)).floor())
    rows = torch.arange(height, device=pictures.device) - top[:, None]
    columns = torch.arange(width, device=pictures.device) - left[:, None]
    inside = ((rows >= 0) & (rows < tall[:, None]))[:, :, None] & ((columns >= 0) & (columns < wide[:, None]))[:, None]
    covered = (inside & chosen[:, None, None])[:, None]
    return torch.where(covered, pictures.mean(dim=(2, 3), keepdim=True), pictures)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "crop": crop,
    "rotate": rotate,
    "zoom": zoom,
    "color": color,
    "erase": erase,
}
"""Those that change a picture by itself; mixup is the one beside them."""


def mixup_of(numbers: NDArray[np.int64], n: int, *words: int | str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which of n pictures each one is mixed with, int64 [B], and its own share, 0.5 to 1, float32 [B].

    Like every augmentation it depends on (words, picture) alone: partners come from the whole training part, not from
    the batch.

    Source: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; there partners come from the batch.
    """
    from scipy.special import betaincinv  # only where it is asked for

    partners = (uniform_of(numbers, *words, "partner").astype(np.float64) * n).astype(np.int64)
    shares = betaincinv(MIXUP_ALPHA, MIXUP_ALPHA, uniform_of(numbers, *words, "share").astype(np.float64))
    return partners, np.maximum(shares, 1 - shares).astype(np.float32)


def _affine(pictures: Tensor, transform: Tensor) -> Tensor:
    grid = F.affine_grid(transform, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
