"""Keep the largest weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsecc.criteria.base import Criterion, Stats


@dataclass(frozen=True)
class Magnitude(Criterion):
    """|w| (Han et al., Learning both Weights and Connections, 2015). Summed over a block it is the block's L1 norm."""

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        return weight.detach().abs().float()
