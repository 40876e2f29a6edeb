"""How close images and videos are to what they should be: PSNR and SSIM, over tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of the Gaussian under which SSIM looks at an image, in pixels
_K1, _K2 = 0.01, 0.03


def psnr(reference: Tensor, other: Tensor, peak: float) -> float:
    """10 · log₁₀(peak² / mean square error), in dB, over all elements; infinite where both are equal, NaN where one is not finite.

    peak: the range of values that the reference may take, above 0.
    """
    error = float((_double(reference, peak) - _double(other, peak)).square().mean())
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(reference: Tensor, other: Tensor, peak: float) -> float:
    """The structural similarity (Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004): the mean
    over all images and all places at which a Gaussian window of 11 × 11, σ 1.5, fits into them; 1 where both are equal.

    reference, other: [..., height, width], at least 11 × 11; each pair of images is looked at by itself.  peak: as for `psnr`.
    Raises ValueError for smaller images.
    """
    if reference.dim() < 2 or min(reference.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}×{WINDOW}, not {'×'.join(map(str, reference.shape[-2:]))}")
    x, y = _double(reference, peak), _double(other, peak)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def _double(x: Tensor, peak: float) -> Tensor:
    if not peak > 0:
        raise ValueError(f"a range of values of {peak} says nothing of errors")
    return x.detach().double()


def _blurred(x: Tensor) -> Tensor:
    """[..., h, w] → [images, 1, h - 10, w - 10], where the window fits."""
    import torch

    at = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = (-(at**2) / (2 * SIGMA**2)).exp()
    weights = weights / weights.sum()
    images = x.reshape(-1, 1, *x.shape[-2:])
    rows = torch.nn.functional.conv2d(images, weights.reshape(1, 1, -1, 1))
    return torch.nn.functional.conv2d(rows, weights.reshape(1, 1, 1, -1))
