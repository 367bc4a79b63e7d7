"""Random changes to training pictures, a whole batch at a time.

Each one is a function of the pictures and of one source of random numbers that is keyed by (seed, epoch, picture),
so a picture is changed in the same way whatever else is in its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Uniform = Callable[[], Tensor]
"""Each call returns fresh numbers in [0, 1), one a picture: float32 [B]."""
Augmentation = Callable[[Tensor, Uniform], Tensor]
"""Takes and returns pictures in 0..1, float32 [B, C, H, W]."""

ROTATION_DEGREES = 12.0
ZOOM = 0.12
COLOR_STRENGTH = 0.3


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


AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "crop": crop, "rotate": rotate, "zoom": zoom, "color": color}


def _affine(pictures: Tensor, transform: Tensor) -> Tensor:
    grid = F.affine_grid(transform, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
