from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from models._video_distance import psnr, ssim


def video(seed: int) -> torch.Tensor:
    return torch.rand(3, 2, 24, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_same_video() -> None:
    assert psnr(video(0), video(0)) == math.inf
    assert ssim(video(0), video(0)) == pytest.approx(1.0)


def test_psnr_of_a_known_difference() -> None:
    assert psnr(torch.zeros(3, 2, 4, 4), torch.full((3, 2, 4, 4), 0.2)) == pytest.approx(20.0, abs=1e-3)
    assert psnr(torch.full((3, 2, 4, 4), 5.0), torch.ones(3, 2, 4, 4)) == math.inf  # what is outside is cut off


def test_ssim_is_that_of_another_implementation() -> None:
    one = video(0)
    other = 0.7 * one + 0.3 * video(1)
    found = []
    for x, y in zip(one.flatten(0, 1).double().numpy(), other.flatten(0, 1).double().numpy(), strict=True):

        def smooth(image: np.ndarray) -> np.ndarray:
            return gaussian_filter(image, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]  # 5 pixels to each side

        mx, my = smooth(x), smooth(y)
        vx, vy, both = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
        found.append(((2 * mx * my + 0.02**2) * (2 * both + 0.06**2) / ((mx**2 + my**2 + 0.02**2) * (vx + vy + 0.06**2))).mean())
    assert ssim(one, other) == pytest.approx(np.mean(found), rel=1e-4)


def test_more_noise_is_less_alike() -> None:
    one, noise = video(0), torch.randn(3, 2, 24, 20, generator=torch.Generator().manual_seed(2))
    assert psnr(one, one + 0.1 * noise) > psnr(one, one + 0.3 * noise)
    assert ssim(one, one + 0.1 * noise) > ssim(one, one + 0.3 * noise)
