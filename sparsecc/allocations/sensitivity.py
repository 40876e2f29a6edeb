"""The division with the least predicted error of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import ClassVar

import numpy as np

from sparsecc.allocations.base import Allocation, Limit, Share, dropped_in_total, floor_units

_LEAST_KEPT = 0.05  # of a layer under a budget: losses are measured up to 95 % zeros


@dataclass(frozen=True)
class Sensitivity(Allocation):
    """min Σ loss_l(s_l), which is the error of the model as long as errors are small: the linearity theorem of HIGGS (Malinovskii et al.,
    Pushing the Limits of Large Language Model Quantization via the Linearity Theorem, 2024).

    A knapsack, by dynamic programming over what the layers take: units kept, bytes or milliseconds. Costs are rounded to `bins`; what is
    too much goes, what is left is spent, level by level and then to the last unit.
    """

    needs_loss: ClassVar[bool] = True

    levels: int = 100  # how many each layer may take
    bins: int = 4096  # of what there is to be divided

    def allocate(self, layers: Sequence[Share], sparsity: float, floor: float) -> list[float]:
        kept = sum(layer.units for layer in layers) - dropped_in_total(layers, sparsity)
        ladders = [self._ladder(layer, floor_units(layer, floor), float) for layer in layers]
        return self._shares(ladders, kept)

    def within(self, layers: Sequence[Share], limit: Limit, floor: float | None = None) -> list[float]:
        least = _LEAST_KEPT if floor is None else floor
        ladders = [self._ladder(layer, floor_units(layer, least), layer.cost) for layer in layers]
        limit.require(sum(ladder.costs[0] for ladder in ladders))
        return self._shares(ladders, limit.amount)

    def _ladder(self, layer: Share, least: int, cost: Callable[[int], float]) -> _Ladder:
        wanted = np.linspace(least, layer.units, self.levels + 1).round().astype(int)
        kept = np.unique([*wanted.tolist(), *(corner for corner in layer.corners if corner >= least), max(least, _free(layer))])
        losses = [layer.loss(1 - n / layer.units) for n in kept.tolist()]
        return _Ladder(layer, cost, kept, np.array([cost(n) for n in kept.tolist()], float), np.array(losses, float))

    def _shares(self, ladders: Sequence[_Ladder], budget: float) -> list[float]:
        left = budget - sum(ladder.costs[0] for ladder in ladders)
        steps = _descend(ladders, _knapsack(ladders, left, self.bins), budget)
        kept = _fill(ladders, _climb(ladders, steps, budget), budget)
        return [1 - n / ladder.layer.units for n, ladder in zip(kept, ladders, strict=True)]


@dataclass(frozen=True, eq=False)
class _Ladder:
    """The levels that a layer may take, from the fewest units up.  kept: int[levels].  costs, losses: float[levels]."""

    layer: Share
    cost: Callable[[int], float]
    kept: np.ndarray
    costs: np.ndarray
    losses: np.ndarray

    def gain(self, step: int) -> float:
        """What the next level saves for what it costs."""
        return float((self.losses[step] - self.losses[step + 1]) / max(self.costs[step + 1] - self.costs[step], 1e-12))


def _knapsack(ladders: Sequence[_Ladder], left: float, bins: int) -> list[int]:
    """The level of each layer with the least loss of all, costs rounded to bins.  left: beyond the lowest level of every layer."""
    whole = all((ladder.costs == ladder.costs.round()).all() for ladder in ladders)  # bytes or units, of which none is divided
    size = max(left / bins, 1.0) if whole else left / bins or 1.0
    bins = int(left / size)
    best = np.zeros(bins + 1)  # the least loss of the layers so far, with so many bins used at most
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for ladder in ladders:
        used = ((ladder.costs - ladder.costs[0]) / size).round()
        found, picked = np.full(bins + 1, np.inf), np.zeros(bins + 1, np.int32)
        for step in np.flatnonzero(used <= bins).tolist():  # cheaper levels first: they stay where a dearer one saves nothing
            at = int(used[step])
            reached = best[: bins + 1 - at] + ladder.losses[step]
            better = reached < found[at:]
            found[at:][better], picked[at:][better] = reached[better], step
        best = found
        chosen.append((picked, used))
    steps: list[int] = []
    at = bins
    for picked, used in reversed(chosen):
        steps.append(int(picked[at]))
        at -= int(used[picked[at]])
    return steps[::-1]


def _descend(ladders: Sequence[_Ladder], steps: list[int], budget: float) -> list[int]:
    """Save what rounding has spent beyond the budget, one level at a time, where a level costs least for its loss."""
    steps, spent = list(steps), sum(ladder.costs[step] for ladder, step in zip(ladders, steps, strict=True))
    ways = [(ladder.gain(step - 1), i) for i, (ladder, step) in enumerate(zip(ladders, steps, strict=True)) if step]
    heapify(ways)
    while spent > budget:
        _, i = heappop(ways)
        ladder, step = ladders[i], steps[i]
        steps[i], spent = step - 1, spent - ladder.costs[step] + ladder.costs[step - 1]
        if step > 1:
            heappush(ways, (ladder.gain(step - 2), i))
    return steps


def _climb(ladders: Sequence[_Ladder], steps: list[int], budget: float) -> list[int]:
    """Spend what is left, one level at a time, where a level saves most for its cost."""
    steps, left = list(steps), budget - sum(ladder.costs[step] for ladder, step in zip(ladders, steps, strict=True))
    ways = [(-ladder.gain(step), i) for i, (ladder, step) in enumerate(zip(ladders, steps, strict=True)) if step + 1 < len(ladder.kept)]
    heapify(ways)
    while ways:
        _, i = heappop(ways)
        ladder, step = ladders[i], steps[i]
        cost = ladder.costs[step + 1] - ladder.costs[step]
        if cost > left:
            continue  # and never fits again: what is left only falls
        steps[i], left = step + 1, left - cost
        if step + 2 < len(ladder.kept):
            heappush(ways, (-ladder.gain(step + 1), i))
    return steps


def _fill(ladders: Sequence[_Ladder], steps: Sequence[int], budget: float) -> list[int]:
    """Units kept: those of the levels, and what the rest of the budget allows, in the layers in which it saves most first."""
    kept = [int(ladder.kept[step]) for ladder, step in zip(ladders, steps, strict=True)]
    below_top = [i for i, ladder in enumerate(ladders) if steps[i] + 1 < len(ladder.kept)]
    left = budget - sum(ladder.costs[step] for ladder, step in zip(ladders, steps, strict=True))
    for i in sorted(below_top, key=lambda i: (-ladders[i].gain(steps[i]), i)):
        ladder, now = ladders[i], ladders[i].cost(kept[i])
        low, high = kept[i], int(ladder.kept[steps[i] + 1])
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if ladder.cost(middle) - now <= left else (low, middle)
        left -= ladder.cost(low) - now
        kept[i] = low
    return kept


def _free(layer: Share) -> int:
    """The fewest units with which nothing is lost: zeros that are there already go first."""
    low, high = 0, layer.units
    while high > low:
        middle = (low + high) // 2
        low, high = (low, middle) if layer.loss(1 - middle / layer.units) <= 0 else (middle + 1, high)
    return high
