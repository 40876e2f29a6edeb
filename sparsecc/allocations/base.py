"""What an allocation is: it divides one sparsity over layers. It sees shapes and scores, no graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sparsecc.errors import RecipeError, SparseccError

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST = 0.99  # sparsity that a budget may ask for: beyond, a layer is little but its index
_HALVINGS = 24  # of the sparsity, to meet a budget


def unknown(_: float) -> float:
    raise SparseccError("this allocation asks for what is not known of a layer")


@dataclass(frozen=True)
class Share:
    """What a layer brings to a division.

    shape: of the weight, (out, in) or (out, in, kh, kw).  units: how many are kept or dropped whole (weights or blocks; blocks
    of the same size in every layer).  unit_scores: float[units], computed when called.

    loss: what the model's error grows by when the layer has a sparsity; 0 at 0, no less for a larger one; measured once it is called.
    cost: what the layer takes with so many units kept, in the unit of a budget; no less for more of them.
    corners: numbers of units kept at which the loss has a corner: where it is linear in between, the best division is nearly all of these.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    unit_scores: Callable[[], Tensor]
    loss: Callable[[float], float] = unknown
    cost: Callable[[int], float] = unknown
    corners: Sequence[int] = ()


@dataclass(frozen=True)
class Limit:
    """What all layers may take together. unit: "bytes" or "milliseconds"."""

    amount: float
    unit: str = "bytes"

    def require(self, least: float) -> None:
        """Raises RecipeError where even `least` is more."""
        if self.amount < least:
            raise RecipeError(f"budget: {self._shown(self.amount)} {self.unit} cannot be met, the nearest that can is {self._shown(least)}")

    def _shown(self, amount: float) -> str:
        """Rounded up, to whole bytes or µs."""
        return str(math.ceil(amount)) if self.unit == "bytes" else f"{math.ceil(1000 * amount) / 1000:.10g}"


@dataclass(frozen=True)
class Allocation(ABC):
    """One member of the family; fields are its options."""

    needs_loss: ClassVar[bool] = False  # reads `Share.loss`, which is measured on calibration inputs
    settles: ClassVar[bool] = True  # layers that were pruned as it says are divided in the same way
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # options that the laws try

    @abstractmethod
    def allocate(self, layers: Sequence[Share], sparsity: float, floor: float) -> list[float]:
        """The sparsity of each layer, such that round(sparsity * units) units go in each and, except for rounding in uniform,
        exactly round(sparsity * all units) in total.

        floor: the least share of its units that a layer keeps; at most 1 - sparsity.
        """

    def within(self, layers: Sequence[Share], limit: Limit, floor: float | None = None) -> list[float]:
        """The sparsity of each layer for which all together stay within the limit: as `allocate` divides the least sparsity of the whole
        that does, found by bisection.

        floor: as for `allocate`; None: a quarter of what is kept on average.
        Raises RecipeError, with the least that can be met, where even HIGHEST does not do.
        """

        def at(sparsity: float) -> list[float]:
            return self.allocate(layers, sparsity, (1 - sparsity) / 4 if floor is None else floor)

        low, high = 0.0, HIGHEST if floor is None else min(HIGHEST, 1 - floor)
        if cost_of(layers, at(low)) <= limit.amount:
            return at(low)
        shares = at(high)
        limit.require(cost_of(layers, shares))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = at(middle)
            if cost_of(layers, found) <= limit.amount:
                high, shares = middle, found
            else:
                low = middle
        return shares


def cost_of(layers: Sequence[Share], shares: Sequence[float]) -> float:
    """What all layers take at these sparsities."""
    return sum(layer.cost(layer.units - round(share * layer.units)) for layer, share in zip(layers, shares, strict=True))


def dropped_in_total(layers: Sequence[Share], sparsity: float) -> int:
    """Units that go, over all layers."""
    return round(sparsity * sum(layer.units for layer in layers))


def floor_units(layer: Share, floor: float) -> int:
    """Units that a layer keeps at least."""
    return math.floor(floor * layer.units)


def divided(layers: Sequence[Share], sparsity: float, share: Callable[[Share, float], float], low: float, high: float) -> list[float]:
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


def _whole(wanted: Sequence[float], kept: int, layers: Sequence[Share]) -> list[int]:
    """Whole units that add up to `kept`: round down, then one more where most was lost (largest remainder, first layer on a tie)."""
    whole = [math.floor(units) for units in wanted]
    open_layers = [i for i, layer in enumerate(layers) if whole[i] < layer.units]
    by_remainder = sorted(open_layers, key=lambda i: (whole[i] - wanted[i], i))
    for i in by_remainder[: kept - sum(whole)]:
        whole[i] += 1
    return whole
