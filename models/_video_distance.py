"""How far two videos are apart: peak signal to noise, structural similarity. Videos are [3, frames, height, width] in [-1, 1]; what lies
outside is cut off."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_RANGE = 2.0
_WINDOW, _DEVIATION = 11, 1.5  # pixels
_K1, _K2 = 0.01, 0.03


def psnr(one: Tensor, other: Tensor) -> float:
    """In decibels; infinite where they are equal."""
    error = (one.clamp(-1, 1) - other.clamp(-1, 1)).square().mean()
    return float(10 * torch.log10(_RANGE**2 / error))


def ssim(one: Tensor, other: Tensor) -> float:
    """Mean over pixels, channels and frames (Wang et al. 2004): Gaussian windows of 11 pixels, only those that lie inside."""
    x, y = (video.clamp(-1, 1).transpose(0, 1).flatten(0, 1).unsqueeze(1) for video in (one, other))  # [frames · 3, 1, height, width]
    at = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    weights = (-at.square() / (2 * _DEVIATION**2)).exp()
    weights = weights / weights.sum()

    def smooth(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y, both = (smooth(a * b) - m * n for a, b, m, n in ((x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y)))
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))
    return float(alike.mean())
