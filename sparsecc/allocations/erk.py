"""Erdős–Rényi-Kernel: small and narrow layers stay denser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.allocations.base import Allocation, Share, divided


@dataclass(frozen=True)
class Erk(Allocation):
    """Kept share of a layer ∝ (out + in + kh + kw) / (out · in · kh · kw), at most 1 and at least the floor
    (Evci et al., Rigging the Lottery, 2020). The factor in front is the one that meets the sparsity of the whole exactly."""

    def allocate(self, layers: Sequence[Share], sparsity: float, floor: float) -> list[float]:
        parts = {layer.name: sum(layer.shape) / math.prod(layer.shape) for layer in layers}

        def share(layer: Share, factor: float) -> float:
            return min(1.0, max(floor, factor * parts[layer.name]))

        return divided(layers, sparsity, share, 0.0, 1 / min(parts.values()))
