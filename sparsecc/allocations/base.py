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
