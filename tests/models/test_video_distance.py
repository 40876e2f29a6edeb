from __future__ import annotations

import math

import pytest
import torch

from models._video_distance import psnr, ssim
from sparsecc import quality


def video(seed: int) -> torch.Tensor:
    return torch.rand(3, 2, 24, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_same_video() -> None:
    assert psnr(video(0), video(0)) == math.inf
    assert ssim(video(0), video(0)) == pytest.approx(1.0)


def test_psnr_of_a_known_difference() -> None:
    assert psnr(torch.zeros(3, 2, 4, 4), torch.full((3, 2, 4, 4), 0.2)) == pytest.approx(20.0, abs=1e-3)
    assert psnr(torch.full((3, 2, 4, 4), 5.0), torch.ones(3, 2, 4, 4)) == math.inf  # what is outside is cut off


def test_ssim_looks_at_each_channel_and_frame_and_cuts_off_too() -> None:
    one, other = video(0), 1.5 * video(1)
    each = [quality.ssim(x, y.clamp(-1, 1), 2.0) for x, y in zip(one.flatten(0, 1), other.flatten(0, 1), strict=True)]
    assert ssim(one, other) == pytest.approx(sum(each) / len(each))


def test_more_noise_is_less_alike() -> None:
    one, noise = video(0), torch.randn(3, 2, 24, 20, generator=torch.Generator().manual_seed(2))
    assert psnr(one, one + 0.1 * noise) > psnr(one, one + 0.3 * noise)
    assert ssim(one, one + 0.1 * noise) > ssim(one, one + 0.3 * noise)
