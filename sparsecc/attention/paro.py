"""PAROAttention (Zhao et al. 2025): for each head the order of tokens in which its map is most blocky, and the heaviest blocks of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.attention import judge, orders
from sparsecc.attention.base import AXIS_ORDERS, Asked, BlockMap, Choice, Pattern, Sample, required
from sparsecc.attention.mass import Mass
from sparsecc.errors import RecipeError
from sparsecc.registry import did_you_mean

KEPT_MASS = 0.9
SETS = ("raster", "axes", "curves", "clusters")  # of orders
ALL = "axes+curves+clusters"


@dataclass(frozen=True)
class Paro(Pattern):
    """An order scores (1 − evenness) · M_s + evenness · M_q, the highest is taken, on a tie the first.

    M_s: the share of blocks that are not needed to keep 90 % of the mass, which is the share below the largest threshold ε that loses
    at most 10 %; the paper's fixed ε of 1e-3 would find none in short sequences.
    M_q: the mean over blocks of mean / largest probability, the inverse of the paper's max / mean: how well one scale per block fits.
    The paper prints the sparsity term with the wrong sign; here, as in its text, sparse and even maps score high.

    Both are over the blocks without text, which are kept whatever their mass, and averaged over samples.

    Which orders are tried stands behind the name, sets of them joined by a plus, as in `paro:axes+curves`. `axes`: the six of the grid's
    axes, as in the paper, and where nothing is given. `curves`: Morton and Hilbert. `clusters`: by clusters of the head's mean keys. `all`:
    these three. `raster`: the model's own alone, so that blocks are chosen and nothing is reordered. The time to choose grows with the
    number of orders. Where a head takes one that is none of axes, orders are stored token by token.
    """

    examples = ({}, {"orders": "raster"}, {"orders": "all"})

    orders: str = "axes"
    evenness: float = 0.25  # weight of M_q

    def __post_init__(self) -> None:
        for name in self._sets():
            if name not in SETS:
                raise RecipeError(f"orders: no {name!r}{did_you_mean(name, ['all', *SETS])}")

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        """`paro:axes+curves` tries eight orders."""
        return cls(parameters) if parameters else cls()

    def choose(self, asked: Asked) -> Choice:
        return self.ladder(asked, [asked.density])[0]

    def ladder(self, asked: Asked, densities: Sequence[float]) -> Sequence[Choice]:
        """An order does not depend on the density."""
        needed = required(asked.grid, asked.block)
        chosen, keeps, lost, error = [], [], [], []
        for head in range(asked.heads):
            inputs = judge.inputs_of(asked, head)
            order, mass = self._best_order(inputs, asked)
            kept = [judge.heaviest(mass, needed, density) for density in densities]
            lost.append([judge.lost_mass(mass, keep) for keep in kept])
            error.append(judge.relative_errors(inputs, order, asked.scale, asked.block, kept))
            chosen.append(order)
            keeps.append(torch.stack(kept))
        stored = None if self._sets() == ["raster"] else orders.compact(chosen, asked.grid)
        return [
            judge.within(BlockMap(asked.grid, asked.block, stored, torch.stack(keep)), costs, errors, asked.max_error)
            for keep, costs, errors in zip(zip(*keeps), zip(*lost), zip(*error), strict=True)
        ]

    def _sets(self) -> list[str]:
        return (ALL if self.orders == "all" else self.orders).split("+")

    def _candidates(self, inputs: Sequence[Sample], asked: Asked) -> Iterator[Tensor]:
        """The orders that are tried."""
        for name in self._sets():
            if name == "clusters":
                yield orders.clusters(torch.stack([k for _, k, _ in inputs]).mean(0), asked.grid, asked.block)
            elif name == "curves":
                yield from (orders.morton(asked.grid), orders.hilbert(asked.grid))
            else:
                yield from (asked.grid.permutation(order) for order in range(len(AXIS_ORDERS) if name == "axes" else 1))

    def _best_order(self, inputs: Sequence[Sample], asked: Asked) -> tuple[Tensor, Tensor]:
        """int64[tokens], and the mass of its blocks."""
        text = asked.grid.text_blocks(asked.block)
        free = ~(text[:, None] | text[None, :])
        best: tuple[Tensor, Tensor] | None = None
        highest = 0.0
        for order in self._candidates(inputs, asked):
            average = judge.average_mass(inputs, order, asked.scale, asked.block)
            score = self._score(average, free)
            if best is None or score > highest:
                best, highest = (order, average.mass), score
        assert best is not None
        return best

    def _score(self, average: Mass, free: Tensor) -> float:
        if not free.any():
            return 0.0
        light = average.mass[free].double().sort().values.cumsum(0)
        sparse = int((light <= (1 - KEPT_MASS) * light[-1]).count_nonzero()) / len(light)
        return (1 - self.evenness) * sparse + self.evenness * float(average.evenness[free].mean())
