"""Rotary embedding (Su et al. 2021) of tokens on a grid of frames, rows and columns: each axis turns pairs of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def angles(grid: tuple[int, int, int], text_tokens: int, pairs: tuple[int, int, int]) -> Tensor:
    """f32[text_tokens + frames · height · width, pairs]: text first, not turned; then `pairs` frequencies of each axis, from one whose
    half turn spans the axis to 1 radian for each place."""
    places = torch.meshgrid(*(torch.arange(float(size)) for size in grid), indexing="ij")
    parts = [
        place.reshape(-1, 1) * (math.pi / size) ** (1 - torch.arange(count) / (count - 1))
        for place, size, count in zip(places, grid, pairs, strict=True)
    ]
    return torch.cat([torch.zeros(text_tokens, sum(pairs)), torch.cat(parts, 1)])


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x[..., tokens, head_dim], of which each number of the first half makes a pair with one of the second."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
