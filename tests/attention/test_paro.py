from __future__ import annotations

from functools import cache

import pytest
import torch

from models._locality import SCALE, planted
from sparsecc.attention.base import BLOCK, Asked, Choice, Grid, Sample, required
from sparsecc.attention.judge import average_mass, heaviest, lost_mass
from sparsecc.attention.paro import Paro

ORDERS = (3, 0, 5, 1, 4, 2)
GRIDS = (Grid(5, 12, 16, text_tokens=7), Grid(5, 11, 13, text_tokens=3, text_first=False), Grid(4, 9, 11))
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def chosen(samples: list[Sample], grid: Grid, density: float, block: int = BLOCK, max_error: float | None = None) -> Choice:
    return Paro().choose(Asked(grid, samples[0].q.shape[1], SCALE, density, block, max_error, samples=samples))


@cache
def choice(grid: Grid, density: float = 0.3, max_error: float | None = None) -> Choice:
    return chosen([planted(grid, ORDERS)], grid, density, max_error=max_error)


@every_grid
def test_the_planted_order_of_every_head_is_found(grid: Grid) -> None:
    assert choice(grid).map.orders.tolist() == list(ORDERS)


@every_grid
def test_at_most_half_the_mass_is_lost_that_raster_order_loses(grid: Grid) -> None:
    sample = planted(grid, ORDERS)
    for head, order in enumerate(ORDERS):
        flat = Sample(*(x[0, head] for x in sample))
        raster = average_mass([flat], grid.permutation(0), SCALE, BLOCK).mass
        lost = lost_mass(raster, heaviest(raster, required(grid, BLOCK), 0.3))
        assert float(choice(grid).lost[head]) <= (lost / 2 if order else lost * (1 + 1e-6))


@every_grid
@pytest.mark.parametrize("density", [0.3, 0.5, 1.0])
def test_every_head_keeps_the_share_asked_for_text_and_the_diagonal(grid: Grid, density: float) -> None:
    keep = choice(grid, density).map.keep
    assert keep.flatten(1).sum(1).tolist() == [max(round(density * keep[0].numel()), int(required(grid, BLOCK).sum()))] * len(ORDERS)
    assert keep[:, required(grid, BLOCK)].all()


def test_nothing_is_lost_at_density_one() -> None:
    found = choice(GRIDS[2], 1.0)
    assert found.lost.tolist() == [0.0] * 6
    assert float(found.error.max()) < 1e-5


def test_a_head_above_the_error_stays_dense_and_in_raster_order() -> None:
    free = choice(GRIDS[2])
    bound = float(free.error.sort().values[2:4].mean())
    found = choice(GRIDS[2], max_error=bound)
    dense = (free.error > bound).nonzero().squeeze(1).tolist()
    assert len(dense) == 3
    assert found.map.dense_heads == dense
    assert found.map.orders[dense].tolist() == [0, 0, 0]
    assert torch.equal(found.error, free.error)


def test_samples_and_items_of_a_batch_count_alike_and_the_same_twice() -> None:
    grid = Grid(2, 6, 7, text_tokens=2)
    first, second = planted(grid, (1, 4), seed=1), planted(grid, (1, 4), seed=2)
    both = Sample(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    apart, together = (chosen(samples, grid, 0.5, 16) for samples in ([first, second], [both]))
    assert torch.equal(apart.map.keep, together.map.keep)
    assert torch.equal(apart.map.orders, together.map.orders)
    assert torch.equal(apart.error, together.error)


def test_sampled_queries_find_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.attention.mass.EXACT_TOKENS", 128)
    found = chosen([planted(GRIDS[0], ORDERS)], GRIDS[0], 0.3)
    assert found.map.orders.tolist() == list(ORDERS)


def test_text_alone_leaves_nothing_to_choose() -> None:
    grid = Grid(1, 1, 2, text_tokens=20)
    found = chosen([planted(grid, (0,))], grid, 0.1, 16)
    assert found.map.keep.all()
    assert found.map.orders.tolist() == [0]
