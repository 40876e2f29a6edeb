"""PAROAttention (Zhao et al. 2025): for each head the axis order in which its map is most blocky, and the heaviest blocks of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.attention import judge
from sparsecc.attention.base import AXIS_ORDERS, Asked, BlockMap, Choice, Pattern, Sample, required
from sparsecc.attention.mass import Mass

KEPT_MASS = 0.9


@dataclass(frozen=True)
class Paro(Pattern):
    """An order scores (1 − evenness) · M_s + evenness · M_q, the highest is taken, on a tie the first in AXIS_ORDERS.

    M_s: the share of blocks that are not needed to keep 90 % of the mass, which is the share below the largest threshold ε that loses
    at most 10 %; the paper's fixed ε of 1e-3 would find none in short sequences.
    M_q: the mean over blocks of mean / largest probability, the inverse of the paper's max / mean: how well one scale per block fits.
    The paper prints the sparsity term with the wrong sign; here, as in its text, sparse and even maps score high.

    Both are over the blocks without text, which are kept whatever their mass, and averaged over samples.
    """

    evenness: float = 0.25  # weight of M_q

    def choose(self, asked: Asked) -> Choice:
        return self.ladder(asked, [asked.density])[0]

    def ladder(self, asked: Asked, densities: Sequence[float]) -> Sequence[Choice]:
        """An order does not depend on the density."""
        needed = required(asked.grid, asked.block)
        orders, keeps, lost, error = [], [], [], []
        for head in range(asked.heads):
            inputs = judge.inputs_of(asked, head)
            order, mass = self._best_order(inputs, asked)
            chosen = [judge.heaviest(mass, needed, density) for density in densities]
            lost.append([judge.lost_mass(mass, keep) for keep in chosen])
            error.append(judge.relative_errors(inputs, asked.grid.permutation(order), asked.scale, asked.block, chosen))
            orders.append(order)
            keeps.append(torch.stack(chosen))
        return [
            judge.within(
                BlockMap(asked.grid, asked.block, torch.tensor(orders, dtype=torch.uint8), torch.stack([keep[i] for keep in keeps])),
                [costs[i] for costs in lost],
                [costs[i] for costs in error],
                asked.max_error,
            )
            for i in range(len(densities))
        ]

    def _best_order(self, inputs: Sequence[Sample], asked: Asked) -> tuple[int, Tensor]:
        """The order's index and the mass of its blocks."""
        text = asked.grid.text_blocks(asked.block)
        free = ~(text[:, None] | text[None, :])
        orders = [asked.grid.permutation(order) for order in range(len(AXIS_ORDERS))]
        found = [judge.average_mass(inputs, order, asked.scale, asked.block) for order in orders]
        scores = [self._score(average, free) for average in found]
        best = scores.index(max(scores))
        return best, found[best].mass

    def _score(self, average: Mass, free: Tensor) -> float:
        if not free.any():
            return 0.0
        light = average.mass[free].double().sort().values.cumsum(0)
        sparse = int((light <= (1 - KEPT_MASS) * light[-1]).count_nonzero()) / len(light)
        return (1 - self.evenness) * sparse + self.evenness * float(average.evenness[free].mean())
