from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sparsecc.quality import psnr, ssim


def image(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_psnr_by_hand() -> None:
    black = torch.zeros(2, 5)
    assert psnr(black, black + 0.1, peak=1.0) == pytest.approx(20.0, abs=1e-6)
    assert psnr(black, black + 16, peak=255.0) == pytest.approx(10 * math.log10(255**2 / 256))
    other = black.clone()
    other[0, 0] = 1  # one of ten
    assert psnr(black, other, peak=2.0) == pytest.approx(10 * math.log10(40))


def test_psnr_of_equal_images_and_of_what_is_no_number() -> None:
    x = image(0, 3, 4)
    assert psnr(x, x.clone(), 1.0) == math.inf
    assert math.isnan(psnr(x, x * torch.nan, 1.0))


def test_ssim_of_flat_images_compares_their_luminance_alone() -> None:
    first, second = torch.full((2, 16, 12), 0.5), torch.full((2, 16, 12), 0.8)
    c1 = 0.01**2
    assert ssim(first, second, 1.0) == pytest.approx((2 * 0.5 * 0.8 + c1) / (0.5**2 + 0.8**2 + c1))


def test_ssim_of_one_window_by_the_formula() -> None:
    x, y, peak = image(1, 11, 11), image(2, 11, 11), 2.0
    weight = torch.tensor([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)], dtype=torch.float64)
    weight /= weight.sum()
    mx, my = float((weight * x).sum()), float((weight * y).sum())
    vx, vy = float((weight * (x - mx) ** 2).sum()), float((weight * (y - my) ** 2).sum())
    cov = float((weight * (x - mx) * (y - my)).sum())
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(x, y, peak) == pytest.approx(expected)


def test_ssim_is_the_mean_over_places_and_images() -> None:
    x, y = image(3, 2, 3, 12, 11), image(4, 2, 3, 12, 11)
    each = [
        ssim(a[rows], b[rows], 1.0) for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True) for rows in (slice(11), slice(1, 12))
    ]
    assert ssim(x, y, 1.0) == pytest.approx(sum(each) / len(each))
    assert ssim(x, x, 1.0) == pytest.approx(1.0)
    assert ssim(x, y, 1.0) == pytest.approx(ssim(y, x, 1.0))


def test_ssim_is_that_of_another_implementation() -> None:
    x = 2 * image(5, 24, 20) - 1
    y = 0.7 * x + 0.3 * (2 * image(6, 24, 20) - 1)

    def smooth(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]  # 5 pixels to each side

    a, b = x.numpy(), y.numpy()
    mx, my = smooth(a), smooth(b)
    vx, vy, both = smooth(a * a) - mx**2, smooth(b * b) - my**2, smooth(a * b) - mx * my
    expected = ((2 * mx * my + 0.02**2) * (2 * both + 0.06**2) / ((mx**2 + my**2 + 0.02**2) * (vx + vy + 0.06**2))).mean()
    assert ssim(x, y, 2.0) == pytest.approx(expected)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="at least 11×11, not 11×10"):
        ssim(image(0, 11, 10), image(1, 11, 10), 1.0)
    with pytest.raises(ValueError, match=r"a range of values of 0\.0 says nothing"):
        psnr(image(0, 2), image(1, 2), 0.0)
