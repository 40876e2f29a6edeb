"""The same sparsity in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.allocations.base import Allocation, Share


@dataclass(frozen=True)
class Uniform(Allocation):
    """s_l = s."""

    def allocate(self, layers: Sequence[Share], sparsity: float, floor: float) -> list[float]:
        return [sparsity] * len(layers)
