"""Layers as methods see them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc import patterns
from sparsecc.train.base import View


def view(
    weight: Tensor,
    keep: Tensor | None = None,
    gradient: Tensor | None = None,
    pattern: str = "unstructured",
    sparsity: float = 0.5,
    seed: int = 0,
) -> View:
    """keep: everything when not given."""
    mask = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    return View(weight, mask, gradient, patterns.parse(pattern), sparsity, torch.Generator().manual_seed(seed))


def random(rows: int = 16, cols: int = 24, seed: int = 1) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
