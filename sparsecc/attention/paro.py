"""PAROAttention (Zhao et al. 2025): for each head the axis order in which its map is most blocky, and the heaviest blocks of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.attention import mass as masses
from sparsecc.attention.base import AXIS_ORDERS, BLOCK, BlockMap, Choice, Grid, Pattern, Sample, required
from sparsecc.attention.mass import Mass
from sparsecc.top import keep_top

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

    def choose(
        self, samples: Sequence[Sample], grid: Grid, scale: float, density: float, block: int = BLOCK, max_error: float | None = None
    ) -> Choice:
        heads = samples[0].q.shape[1]
        orders, keep, lost, error = [], [], [], []
        for head in range(heads):
            inputs = [_head(sample, item, head) for sample in samples for item in range(len(sample.q))]
            order, mass = self._best_order(inputs, grid, scale, block)
            chosen = heaviest(mass, required(grid, block), density)
            lost.append(lost_mass(mass, chosen))
            error.append(_error(inputs, grid.permutation(order), scale, block, chosen))
            too_wrong = max_error is not None and not error[-1] <= max_error
            orders.append(0 if too_wrong else order)
            keep.append(torch.ones_like(chosen) if too_wrong else chosen)
        found = BlockMap(grid, block, torch.tensor(orders, dtype=torch.uint8), torch.stack(keep))
        return Choice(found, torch.tensor(lost), torch.tensor(error))

    def _best_order(self, inputs: Sequence[Sample], grid: Grid, scale: float, block: int) -> tuple[int, Tensor]:
        """The order's index and the mass of its blocks."""
        text = grid.text_blocks(block)
        free = ~(text[:, None] | text[None, :])
        found = [average_mass(inputs, grid.permutation(order), scale, block) for order in range(len(AXIS_ORDERS))]
        scores = [self._score(average, free) for average in found]
        best = scores.index(max(scores))
        return best, found[best].mass

    def _score(self, average: Mass, free: Tensor) -> float:
        if not free.any():
            return 0.0
        light = average.mass[free].double().sort().values.cumsum(0)
        sparse = int((light <= (1 - KEPT_MASS) * light[-1]).count_nonzero()) / len(light)
        return (1 - self.evenness) * sparse + self.evenness * float(average.evenness[free].mean())


def average_mass(inputs: Sequence[Sample], permutation: Tensor, scale: float, block: int) -> Mass:
    """Over samples of one head, each [tokens, head_dim], in the order of `permutation`."""
    found = [masses.measure(q[permutation], k[permutation], scale, block) for q, k, _ in inputs]
    return Mass(torch.stack([one.mass for one in found]).mean(0), torch.stack([one.evenness for one in found]).mean(0))


def heaviest(mass: Tensor, needed: Tensor, density: float) -> Tensor:
    """bool[query_blocks, key_blocks]: `needed`, and the heaviest others until that share of all blocks is kept."""
    count = max(round(density * mass.numel()), int(needed.count_nonzero()))
    score = torch.where(needed, torch.inf, mass).flatten()
    return keep_top(score, score.numel() - count).reshape(mass.shape)


def lost_mass(mass: Tensor, keep: Tensor) -> float:
    """Share of the mass outside the kept blocks."""
    return float(mass[~keep].double().sum() / mass.double().sum())


def _head(sample: Sample, item: int, head: int) -> Sample:
    return Sample(*(tensor[item, head].detach().float() for tensor in sample))


def _error(inputs: Sequence[Sample], permutation: Tensor, scale: float, block: int, keep: Tensor) -> float:
    parts = [masses.output_error(q[permutation], k[permutation], v[permutation], scale, block, keep) for q, k, v in inputs]
    lost, whole = (sum(column) for column in zip(*parts, strict=True))
    return (lost / whole) ** 0.5 if whole else 0.0
