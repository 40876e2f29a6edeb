"""Handwritten digits without a download: the 1797 of scikit-learn's package (Alpaydin and Kaynak 1998), turned, shifted and noisy."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models._carrier import carried

PIXELS = 16  # of a distorted image, in each direction
_HELD_OUT = 5  # one digit of so many
_DEGREES, _SHIFT, _SCALE, _NOISE = 25.0, 0.2, 0.2, 0.3  # the most, of half the width, of the size; the standard deviation of grey levels


def digits(held_out: bool) -> tuple[Tensor, Tensor]:
    """(images f32[count, 1, 8, 8] in [0, 1], labels int64[count]): those to learn from, or those held out."""
    images, labels = _all()
    chosen = (torch.arange(len(labels)) % _HELD_OUT == 0) == held_out
    return images[chosen], labels[chosen]


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """f32[count, 1, 16, 16] in [-1, 1]: each turned, shifted, sheared and scaled by itself, then noise. images: [count, 1, 8, 8]."""
    count = len(images)
    angle, shear, scale, across, down = (2 * torch.rand(5, count, generator=generator) - 1).unbind()
    angle, scale, shear = angle * math.radians(_DEGREES), 1.2 + _SCALE * scale, shear * _SHIFT
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack([cos, shear - sin, across * _SHIFT, sin, cos, down * _SHIFT], 1).reshape(count, 2, 3)
    placed = F.grid_sample(images, F.affine_grid(affine, [count, 1, PIXELS, PIXELS], align_corners=False), align_corners=False)
    return 2 * placed - 1 + _NOISE * torch.randn(placed.shape, generator=generator)


@cache
def _all() -> tuple[Tensor, Tensor]:
    table = np.loadtxt(carried("sklearn", "datasets/data/digits.csv.gz", "scikit-learn"), delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1] / 16).reshape(-1, 1, 8, 8), torch.from_numpy(table[:, -1]).long()
