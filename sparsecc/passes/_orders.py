"""Orders of a layer's outputs or inputs in which a pattern keeps more of what matters."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 400  # of exchanges between groups
_PATIENCE = 30  # rounds without a gain worth mentioning, after which it ends
_LEAST = 1e-6  # of what is kept


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
    cols = scores.shape[1]
    generator = torch.Generator().manual_seed(seed)
    order, waiting = torch.arange(cols).reshape(-1, m), 0
    kept = float(scores.double().sum())
    for _ in range(_ROUNDS):
        pairs = torch.randperm(len(order), generator=generator)[: len(order) // 2 * 2].reshape(2, -1)
        one, other = order[pairs[0]], order[pairs[1]]
        gain, place, partner = _best_exchange(scores[:, one], scores[:, other], n)
        taken = gain > 0
        lane = torch.arange(len(one))[taken]
        left, right = one[lane, place[taken]], other[lane, partner[taken]]
        order[pairs[0][taken], place[taken]], order[pairs[1][taken], partner[taken]] = right, left
        waiting = 0 if float(gain[taken].sum()) > _LEAST * kept else waiting + 1
        if waiting > _PATIENCE:
            break
    return order.flatten()


def held_in_groups(scores: Tensor, n: int, m: int) -> float:
    """The share of all scores that the n highest of every m neighbours hold."""
    total = float(scores.double().sum())
    best = scores.reshape(len(scores), -1, m).topk(n, dim=2).values
    return float(best.double().sum()) / total if total else 1.0


def _best_exchange(one: Tensor, other: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """one, other: float[rows, pairs, m], two groups of each pair. For each pair the most that an exchange of two columns gains, and the
    places of the two in their groups."""
    m = one.shape[2]
    (rest, bar), (rest_, bar_) = (_without_each(group, n) for group in (one, other))
    before = sum(group.topk(n, dim=2).values.sum((0, 2), dtype=torch.float64) for group in (one, other))
    gains = [
        (rest[:, :, i] + torch.maximum(bar[:, :, i], other[:, :, j])).sum(0, dtype=torch.float64)
        + (rest_[:, :, j] + torch.maximum(bar_[:, :, j], one[:, :, i])).sum(0, dtype=torch.float64)
        for i in range(m)
        for j in range(m)
    ]
    gain, best = (torch.stack(gains) - before).max(0)
    return gain, best // m, best % m


def _without_each(group: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """For each column of a group [rows, pairs, m] and what is left without it: the sum of the n - 1 highest, and the next one, which
    stays unless what takes the column's place is higher."""
    down = group.sort(dim=2, descending=True)
    rank = torch.empty_like(down.indices).scatter_(2, down.indices, torch.arange(group.shape[2]).expand_as(group).contiguous())
    top = down.values.cumsum(2)
    shorter = top[:, :, n - 2, None] if n > 1 else torch.zeros_like(top[:, :, :1])
    rest = torch.where(rank < n - 1, top[:, :, n - 1, None] - group, shorter)
    bar = torch.where(rank < n, down.values[:, :, n, None], down.values[:, :, n - 1, None])
    return rest, bar
