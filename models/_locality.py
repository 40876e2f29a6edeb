"""q, k and v whose attention is local along a known order of the tokens, under noise: what an attention pattern has to find."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecc.attention.base import Grid, Sample

HEAD_DIM = 64
SCALE = HEAD_DIM**-0.5
REACH = 0.04  # of the sequence: the standard deviation of the distance at which a token looks
STRENGTH, NOISE = 1.4, 0.5  # with these a few percent of the mass lie outside the band


def planted(grid: Grid, orders: Sequence[int], seed: int = 0) -> Sample:
    """[1, heads, tokens, HEAD_DIM], one head for each order, an index into AXIS_ORDERS. Tokens look at those near them in their head's
    order: the product of random Fourier features (Rahimi and Recht, 2007) is a Gaussian of the distance."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [_head(grid, order, generator) for order in orders]
    q, k = (torch.stack(side).unsqueeze(0) for side in zip(*pairs, strict=True))
    return Sample(q, k, torch.randn(q.shape, generator=generator))


def _head(grid: Grid, order: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    place = torch.empty(grid.tokens)
    place[grid.permutation(order)] = torch.arange(grid.tokens) / grid.tokens
    phases = place[:, None] / REACH * torch.randn(HEAD_DIM // 2, generator=generator)
    features = STRENGTH * torch.cat([phases.cos(), phases.sin()], dim=1)
    q, k = (features + NOISE * torch.randn(features.shape, generator=generator) for _ in range(2))
    return q, k
