"""q, k and v whose attention is local along a known order of the axes, under noise: what a pattern has to find."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.attention.base import Grid, Sample

HEAD_DIM = 64
SCALE = HEAD_DIM**-0.5


def planted(grid: Grid, orders: list[int], *, heads_noise: float = 0.5, reach: float = 0.04, seed: int = 0) -> Sample:
    """One head per order, [1, heads, tokens, HEAD_DIM]. Each token looks at those within `reach` of the sequence in its head's order:
    the product of random Fourier features (Rahimi and Recht, 2007) is a Gaussian of the distance."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [_head(grid, order, reach, heads_noise, generator) for order in orders]
    q, k = (torch.stack(side).unsqueeze(0) for side in zip(*pairs, strict=True))
    return Sample(q, k, torch.randn(q.shape, generator=generator))


def _head(grid: Grid, order: int, reach: float, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    position = torch.empty(grid.tokens)
    position[grid.permutation(order)] = torch.arange(grid.tokens) / grid.tokens
    phases = position[:, None] * torch.randn(HEAD_DIM // 2, generator=generator) / reach
    features = 2 * torch.cat([phases.cos(), phases.sin()], dim=1)
    q, k = (features + noise * torch.randn(features.shape, generator=generator) for _ in range(2))
    return q, k
