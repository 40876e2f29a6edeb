"""Orders of a layer's outputs or inputs in which a pattern keeps more of what matters."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 150  # of exchanges between groups
_PATIENCE = 10  # rounds without a gain worth mentioning, after which it ends
_LEAST = 1e-6  # of what is kept
_ROWS = 1024  # that are looked at


def neighbours(scores: Tensor, height: int) -> Tensor:
    """int64[rows]: an order of the rows of scores [rows, inputs] in which blocks of `height` of them agree on their inputs.

    Greedy: the row with the most to say opens a block, and those join whose scores, above what is usual at each input, go best with what
    the block holds already.
    """
    apart = scores - scores.mean(dim=1, keepdim=True)
    free = torch.ones(len(scores), dtype=torch.bool)
    weight = apart.norm(dim=1)
    alike = apart @ apart.T
    found: list[int] = []
    for _ in range(len(scores) // height):
        block = [int(torch.where(free, weight, -torch.inf).argmax())]
        free[block[0]] = False
        total = alike[block[0]].clone()
        while len(block) < height:
            fit = torch.where(free, total / weight.clamp(min=1e-30), -torch.inf)
            block.append(int(fit.argmax()))
            free[block[-1]] = False
            total += alike[block[-1]]
        found += block
    return torch.tensor(found)


def held(scores: Tensor, height: int) -> float:
    """The share of all scores that the higher half of the blocks of `height` rows × 1 input holds."""
    blocks = scores.reshape(-1, height, scores.shape[1]).sum(1).flatten()
    total = float(blocks.double().sum())
    return float(blocks.sort(descending=True).values[: len(blocks) // 2].double().sum()) / total if total else 1.0


def spread(scores: Tensor, n: int, m: int, seed: int = 0) -> Tensor:
    """int64[inputs]: an order of the columns of scores [rows, inputs] in which n of every m neighbours hold more (Pool and Yu, Channel
    Permutations for N:M Sparsity, 2021).

    In each round the groups meet in random pairs, and each pair exchanges the two columns that gain most, if any do.
    """
    columns = scores[:: -(-len(scores) // _ROWS)].T.contiguous()  # [inputs, rows]
    generator = torch.Generator().manual_seed(seed)
    order, waiting = torch.arange(len(columns)).reshape(-1, m), 0
    whole = float(columns.double().sum())
    for _ in range(_ROUNDS):
        pairs = torch.randperm(len(order), generator=generator)[: len(order) // 2 * 2].reshape(2, -1)
        one, other = order[pairs[0]], order[pairs[1]]
        gain, place, partner = _best_exchange(columns[one.T], columns[other.T], n)
        taken = gain > 0
        lane = torch.arange(len(one))[taken]
        left, right = one[lane, place[taken]], other[lane, partner[taken]]
        order[pairs[0][taken], place[taken]], order[pairs[1][taken], partner[taken]] = right, left
        waiting = 0 if float(gain[taken].sum()) > _LEAST * whole else waiting + 1
        if waiting > _PATIENCE:
            break
    return order.flatten()


def held_in_groups(scores: Tensor, n: int, m: int) -> float:
    """The share of all scores that the n highest of every m neighbours hold."""
    total = float(scores.double().sum())
    best = scores.reshape(len(scores), -1, m).topk(n, dim=2).values
    return float(best.double().sum()) / total if total else 1.0


def _best_exchange(one: Tensor, other: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """one, other: float[m, pairs, rows], two groups of each pair. For each pair the most that an exchange of two columns gains, and the
    places of the two in their groups."""
    m = len(one)
    (kept, rest, bar), (kept_, rest_, bar_) = (_without_each(group, n) for group in (one, other))
    gains = [
        (rest[i] + torch.maximum(bar[i], other[j]) + rest_[j] + torch.maximum(bar_[j], one[i])).sum(1) for i in range(m) for j in range(m)
    ]
    gain, best = (torch.stack(gains) - (kept + kept_).sum(1)).max(0)
    return gain, best // m, best % m


def _without_each(group: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the n highest columns of a group [m, pairs, rows]. Then, for each column and what is left without it: the sum of the n - 1
    highest, and the next one, which stays unless what takes the column's place is higher."""
    m = len(group)
    rank = torch.zeros_like(group)  # by comparing each with each: sorting so few is ten times slower
    for i in range(m):
        for j in range(i):
            above = (group[j] >= group[i]).float()
            rank[i] += above
            rank[j] += 1 - above
    nth, after = ((group * (rank == place)).sum(0) for place in (n - 1, n))
    shorter = (group * (rank < n - 1)).sum(0)
    kept = shorter + nth
    return kept, torch.where(rank < n - 1, kept - group, shorter), torch.where(rank < n, after, nth)
