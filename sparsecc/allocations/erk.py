"""Erdős–Rényi-Kernel: small and narrow layers stay denser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.allocations.base import Allocation, Layer, dropped_in_total


@dataclass(frozen=True)
class Erk(Allocation):
    """Kept share of a layer ∝ (out + in + kh + kw) / (out · in · kh · kw), at most 1 and at least the floor
    (Evci et al., Rigging the Lottery, 2020). The factor in front is the one that meets the sparsity of the whole exactly."""

    def allocate(self, layers: Sequence[Layer], sparsity: float, floor: float) -> list[float]:
        kept = sum(layer.units for layer in layers) - dropped_in_total(layers, sparsity)
        wanted = _scaled(layers, kept, floor)
        return [1 - n / layer.units for n, layer in zip(_whole(wanted, kept, layers), layers, strict=True)]


def _scaled(layers: Sequence[Layer], kept: int, floor: float) -> list[float]:
    """Units kept per layer, before rounding: bisection for the factor, in which the total is monotone."""
    shares = [sum(layer.shape) / math.prod(layer.shape) for layer in layers]

    def units(factor: float) -> list[float]:
        return [layer.units * min(1.0, max(floor, factor * share)) for layer, share in zip(layers, shares, strict=True)]

    low, high = 0.0, 1 / min(shares)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(units(middle)) < kept else (low, middle)
    return units(high)


def _whole(wanted: Sequence[float], kept: int, layers: Sequence[Layer]) -> list[int]:
    """Whole units that add up to `kept`: round down, then one more where most was lost (largest remainder, first layer on a tie)."""
    whole = [math.floor(units) for units in wanted]
    open_layers = [i for i, layer in enumerate(layers) if whole[i] < layer.units]
    by_remainder = sorted(open_layers, key=lambda i: (whole[i] - wanted[i], i))
    for i in by_remainder[: kept - sum(whole)]:
        whole[i] += 1
    return whole
