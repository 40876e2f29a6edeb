"""Truncated singular value decompositions that structures share."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left [..., m, rank], right [..., rank, n]) of [..., m, n]: the product is the nearest of that rank (Eckart, Young 1936)."""
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root.unsqueeze(-2), vt[..., :rank, :] * root.unsqueeze(-1)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with equal norms on both sides of each rank: small numbers are exact in low precision, and both sides train."""
    ratio = right.norm(dim=-1) / left.norm(dim=-2)
    scale = torch.where((ratio > 0) & ratio.isfinite(), ratio, 1).sqrt()
    return left * scale.unsqueeze(-2), right / scale.unsqueeze(-1)
