"""Orders that were planted are found, and exchanges gain what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.passes._orders import _best_exchange, held, held_in_groups, neighbours, spread


def planted(rows: int = 64, cols: int = 40, height: int = 4) -> Tensor:
    """Rows of which `height` each listen to the same inputs, shuffled."""
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(rows // height, cols, generator=generator) < 0.5).float().repeat_interleave(height, 0)
    scores = patterns + 0.1 * torch.rand(rows, cols, generator=generator)
    return scores[torch.randperm(rows, generator=generator)]


def test_planted_blocks_are_found() -> None:
    scores = planted()
    rows = neighbours(scores, 4)
    assert sorted(rows.tolist()) == list(range(64))
    together = (scores[rows] > 0.5).reshape(16, 4, -1)
    assert (together == together[:, :1]).all()
    assert held(scores[rows], 4) > held(scores, 4) + 0.1


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8)])
def test_what_an_exchange_gains(n: int, m: int) -> None:
    one, other = torch.rand(2, m, 3, 9, generator=torch.Generator().manual_seed(n))
    gain, place, partner = _best_exchange(one, other, n)

    def kept(group: Tensor) -> Tensor:
        return group.topk(n, dim=0).values.sum((0, 2))

    def exchanged(pair: int, i: int, j: int) -> float:
        left, right = one[:, pair : pair + 1].clone(), other[:, pair : pair + 1].clone()
        left[i], right[j] = other[j, pair : pair + 1], one[i, pair : pair + 1]
        return float(kept(left) + kept(right))

    for pair in range(3):
        before = float(kept(one)[pair] + kept(other)[pair])
        most = max(exchanged(pair, i, j) for i in range(m) for j in range(m))
        assert float(gain[pair]) == pytest.approx(most - before, abs=1e-4)
        assert exchanged(pair, int(place[pair]), int(partner[pair])) == pytest.approx(most, abs=1e-4)


def test_columns_that_matter_are_spread() -> None:
    """Half of the columns matter, and they come first: in that order the pattern drops half of them."""
    scores = torch.cat([torch.ones(16, 32), torch.full((16, 32), 0.01)], 1)
    order = spread(scores, 2, 4)
    assert sorted(order.tolist()) == list(range(64))
    assert held_in_groups(scores, 2, 4) < 0.52
    assert held_in_groups(scores[:, order], 2, 4) > 0.98
    assert torch.equal(order, spread(scores, 2, 4))
