from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models._locality import SCALE, planted
from sparsecc import attention
from sparsecc.attention import orders
from sparsecc.attention.base import BLOCK, Asked, BlockMap, Choice, Grid, Sample, required
from sparsecc.attention.judge import average_mass, heaviest, lost_mass
from sparsecc.attention.paro import Paro
from sparsecc.errors import RecipeError

ORDERS = (3, 0, 5, 1, 4, 2)
GRIDS = (Grid(5, 12, 16, text_tokens=7), Grid(5, 11, 13, text_tokens=3, text_first=False), Grid(4, 9, 11))
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


class Found(NamedTuple):
    """A choice with all that Paro gives."""

    map: BlockMap
    orders: Tensor
    lost: Tensor
    error: Tensor


def chosen(samples: list[Sample], grid: Grid, density: float, block: int = BLOCK, max_error: float | None = None) -> Found:
    found = Paro().choose(Asked(grid, samples[0].q.shape[1], SCALE, density, block, max_error, samples=samples))
    assert found.map.orders is not None and found.lost is not None and found.error is not None
    return Found(found.map, found.map.orders, found.lost, found.error)


@cache
def choice(grid: Grid, density: float = 0.3, max_error: float | None = None) -> Found:
    return chosen([planted(grid, ORDERS)], grid, density, max_error=max_error)


@every_grid
def test_the_planted_order_of_every_head_is_found(grid: Grid) -> None:
    assert choice(grid).orders.tolist() == list(ORDERS)


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
    assert found.orders[dense].tolist() == [0, 0, 0]
    assert torch.equal(found.error, free.error)


def test_samples_and_items_of_a_batch_count_alike_and_the_same_twice() -> None:
    grid = Grid(2, 6, 7, text_tokens=2)
    first, second = planted(grid, (1, 4), seed=1), planted(grid, (1, 4), seed=2)
    both = Sample(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    apart, together = (chosen(samples, grid, 0.5, 16) for samples in ([first, second], [both]))
    assert torch.equal(apart.map.keep, together.map.keep)
    assert torch.equal(apart.orders, together.orders)
    assert torch.equal(apart.error, together.error)


def test_sampled_queries_find_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.attention.mass.EXACT_TOKENS", 128)
    found = chosen([planted(GRIDS[0], ORDERS)], GRIDS[0], 0.3)
    assert found.orders.tolist() == list(ORDERS)


def test_text_alone_leaves_nothing_to_choose() -> None:
    grid = Grid(1, 1, 2, text_tokens=20)
    found = chosen([planted(grid, (0,))], grid, 0.1, 16)
    assert found.map.keep.all()
    assert found.orders.tolist() == [0]


def scattered(grid: Grid, groups: int, seed: int = 0) -> Sample:
    """One head whose tokens look at those of their own group, and groups are scattered over the grid."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(groups, (grid.tokens,), generator=generator)
    centres = 2 * torch.randn(groups, 64, generator=generator)
    q, k = (centres[label] + 0.5 * torch.randn(grid.tokens, 64, generator=generator) for _ in range(2))
    return Sample(*(x[None, None] for x in (q, k, torch.randn(grid.tokens, 64, generator=generator))))


def with_orders(orders: str, sample: Sample, grid: Grid, max_error: float | None = None) -> Choice:
    return Paro(orders).choose(Asked(grid, sample.q.shape[1], SCALE, 0.3, 16, max_error, samples=[sample]))


def lost(choice: Choice) -> float:
    assert choice.lost is not None
    return float(choice.lost.max())


def test_clusters_gather_what_no_order_of_the_grid_does() -> None:
    grid = Grid(4, 8, 8, text_tokens=3)
    sample = scattered(grid, 8)
    raster, axes, curves, clusters, every = (with_orders(key, sample, grid) for key in ("raster", "axes", "curves", "clusters", "all"))
    assert lost(clusters) < lost(raster) / 4
    assert lost(clusters) < lost(axes) / 4 and lost(clusters) < lost(curves) / 4
    assert clusters.map.orders is not None and clusters.map.orders.dtype == torch.int32
    assert every.map.orders is not None and torch.equal(every.map.orders, clusters.map.orders)
    assert orders.names(every.map) == ["own"]


def test_curves_gather_what_is_near_along_all_axes_alike() -> None:
    """Blocks along the curves are squares, along any axis they are rows."""
    grid, generator = Grid(1, 16, 16), torch.Generator().manual_seed(0)
    places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1).reshape(-1, 2)
    phases = places / 4 @ torch.randn(2, 32, generator=generator)
    features = 1.4 * torch.cat([phases.cos(), phases.sin()], 1)[None, None]
    sample = Sample(features, features, torch.randn(features.shape, generator=generator))
    found, axes = (with_orders(key, sample, grid) for key in ("axes+curves", "axes"))
    assert orders.names(found.map)[0] in ("Morton", "Hilbert")
    assert lost(found) < 0.7 * lost(axes)


def test_raster_reorders_nothing_and_is_the_same_chooser() -> None:
    grid = GRIDS[2]
    sample = planted(grid, (0, 3))
    raster, axes = with_orders("raster", sample, grid), with_orders("axes", sample, grid)
    assert raster.map.orders is None and axes.map.orders is not None and axes.map.orders.tolist() == [0, 3]
    assert torch.equal(raster.map.keep[0], axes.map.keep[0])
    assert raster.lost is not None and axes.lost is not None and raster.lost[1] > 2 * axes.lost[1]


def test_orders_of_axes_are_stored_by_number_whatever_else_was_tried() -> None:
    grid = GRIDS[2]
    found = with_orders("axes+curves", planted(grid, (4, 1)), grid).map.orders
    assert found is not None and (found.dtype, found.tolist()) == (torch.uint8, [4, 1])


def test_a_head_above_the_error_stands_in_the_model_s_order_also_token_by_token() -> None:
    grid = Grid(4, 8, 8)
    found = with_orders("clusters", scattered(grid, 8), grid, max_error=0.0)
    assert found.map.dense_heads == [0]
    assert orders.names(found.map) == ["FHW"]


def test_sets_of_orders_stand_behind_a_colon() -> None:
    assert attention.create("paro") == Paro() == Paro("axes")
    assert attention.create("paro:axes+curves") == Paro("axes+curves")
    for key, reason in (("paro:512", "no '512'; there are: all, raster"), ("paro:curve", "did you mean 'curves'"), ("paro:axes+", "no ''")):
        with pytest.raises(RecipeError, match=f"orders: .*{reason}"):
            attention.create(key)
