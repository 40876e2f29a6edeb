"""Keep weights at random: the baseline that every criterion has to beat, and the masks of kernel benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.criteria.base import Criterion, Stats


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform scores (Liu et al., The Unreasonable Effectiveness of Random Pruning, 2022), the same on every machine."""

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        return torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight.device)
