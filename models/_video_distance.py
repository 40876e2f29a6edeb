"""How far two videos are apart: peak signal to noise, structural similarity. Videos are [3, frames, height, width] in [-1, 1]; what lies
outside is cut off."""

from __future__ import annotations

from torch import Tensor

from sparsecc import quality

_RANGE = 2.0


def psnr(one: Tensor, other: Tensor) -> float:
    """In decibels; infinite where they are equal."""
    return quality.psnr(one.clamp(-1, 1), other.clamp(-1, 1), _RANGE)


def ssim(one: Tensor, other: Tensor) -> float:
    """Mean over pixels, channels and frames."""
    return quality.ssim(one.clamp(-1, 1), other.clamp(-1, 1), _RANGE)
