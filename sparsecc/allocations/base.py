"""What an allocation is: it divides one sparsity over layers. It sees shapes and scores, no graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """shape: of the weight, (out, in) or (out, in, kh, kw).  units: how many are kept or dropped whole (weights or blocks; blocks
    of the same size in every layer).  unit_scores: float[units], computed when called."""

    name: str
    shape: tuple[int, ...]
    units: int
    unit_scores: Callable[[], Tensor]


@dataclass(frozen=True)
class Allocation(ABC):
    """One member of the family; fields are its options."""

    @abstractmethod
    def allocate(self, layers: Sequence[Layer], sparsity: float, floor: float) -> list[float]:
        """The sparsity of each layer, such that round(sparsity * units) units go in each and, except for rounding in uniform,
        exactly round(sparsity * all units) in total.

        floor: the least share of its units that a layer keeps; at most 1 - sparsity.
        """


def dropped_in_total(layers: Sequence[Layer], sparsity: float) -> int:
    """Units that go, over all layers."""
    return round(sparsity * sum(layer.units for layer in layers))


def floor_units(layer: Layer, floor: float) -> int:
    """Units that a layer keeps at least."""
    return math.floor(floor * layer.units)


def divided(layers: Sequence[Layer], sparsity: float, share: Callable[[Layer, float], float], low: float, high: float) -> list[float]:
    """The sparsity of each layer where layer l keeps share(l, t) of its units, for the t that meets the sparsity of all exactly.

    share: within [0, 1], and no less for a larger t.  low, high: t for which too few and enough units stay.
    """
    kept = sum(layer.units for layer in layers) - dropped_in_total(layers, sparsity)
    for _ in range(100):
        middle = (low + high) / 2
        enough = sum(layer.units * share(layer, middle) for layer in layers) >= kept
        low, high = (low, middle) if enough else (middle, high)
    wanted = [layer.units * share(layer, high) for layer in layers]
    return [1 - n / layer.units for n, layer in zip(_whole(wanted, kept, layers), layers, strict=True)]


def _whole(wanted: Sequence[float], kept: int, layers: Sequence[Layer]) -> list[int]:
    """Whole units that add up to `kept`: round down, then one more where most was lost (largest remainder, first layer on a tie)."""
    whole = [math.floor(units) for units in wanted]
    open_layers = [i for i, layer in enumerate(layers) if whole[i] < layer.units]
    by_remainder = sorted(open_layers, key=lambda i: (whole[i] - wanted[i], i))
    for i in by_remainder[: kept - sum(whole)]:
        whole[i] += 1
    return whole
