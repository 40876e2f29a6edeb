"""Costs of any map: against the whole map, causal and with shared keys, and heads that are too wrong."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sparsecc.attention.base import Asked, BlockMap, Grid, Sample
from sparsecc.attention.judge import heaviest, judge, lost_mass
from tests.tolerance import assert_close

GRID, HEADS, BLOCK, SCALE = Grid.line(13), 4, 4, 0.3


def sample(kv_heads: int = HEADS, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    return Sample(*(torch.randn(2, heads, 13, 8, generator=generator) for heads in (HEADS, kv_heads, kv_heads)))


def banded(causal: bool, orders: torch.Tensor | None = None) -> BlockMap:
    keep = torch.eye(4, dtype=torch.bool) | torch.eye(4, dtype=torch.bool).roll(1, 0).tril()
    return BlockMap(GRID, BLOCK, orders, keep.repeat(HEADS, 1, 1), causal)


def asked(causal: bool = False, max_error: float | None = None, kv_heads: int = HEADS) -> Asked:
    return Asked(GRID, HEADS, SCALE, 0.5, BLOCK, max_error, causal, [sample(kv_heads)])


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_lost_is_what_the_whole_map_says(causal: bool, kv_heads: int) -> None:
    q, k, v = sample(kv_heads)
    k, v = (x.repeat_interleave(HEADS // kv_heads, 1) for x in (k, v))
    found = judge(banded(causal), asked(causal, kv_heads=kv_heads))
    seen = banded(causal).keep[0].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:13, :13]
    later = torch.ones(13, 13, dtype=torch.bool).triu(1) if causal else torch.zeros(13, 13, dtype=torch.bool)
    scores = (SCALE * q @ k.mT).masked_fill(later, -torch.inf)
    p = scores.softmax(-1)
    dense, sparse = p @ v, functional.scaled_dot_product_attention(q, k, v, seen & ~later, scale=SCALE)
    assert found.lost is not None and found.error is not None
    assert_close(found.lost, (p * ~seen).sum((0, 2, 3)) / p.sum((0, 2, 3)))
    assert_close(found.error, (dense - sparse).square().sum((0, 2, 3)).sqrt() / dense.square().sum((0, 2, 3)).sqrt())


@pytest.mark.parametrize("causal", [False, True])
def test_heads_above_the_error_are_dense_and_in_the_models_order(causal: bool) -> None:
    free = judge(banded(causal), asked(causal))
    assert free.error is not None
    bound = float(free.error.sort().values[1:3].mean())
    found = judge(banded(causal), asked(causal, bound))
    assert found.map.dense_heads == (free.error > bound).nonzero().squeeze(1).tolist() and len(found.map.dense_heads) == 2
    assert found.error is not None and torch.equal(found.error, free.error)
    orders = torch.arange(13, dtype=torch.int32).flip(0).repeat(HEADS, 1)
    for given in (torch.full((HEADS,), 3, dtype=torch.uint8), orders):
        moved = judge(banded(False, given), asked(False, 0.0)).map
        assert moved.orders is not None and torch.equal(moved.places(), torch.arange(13).expand(HEADS, -1))


def test_without_samples_a_map_costs_nothing_that_is_known() -> None:
    found = judge(banded(True), Asked(GRID, HEADS, SCALE, 0.5, BLOCK, causal=True))
    assert (found.lost, found.error) == (None, None)


def test_the_heaviest_blocks_are_kept_and_the_first_of_equals() -> None:
    mass = torch.tensor([[1.0, 5.0, 5.0], [0.0, 1.0, 9.0], [5.0, 0.0, 1.0]])
    needed = torch.eye(3, dtype=torch.bool)
    assert heaviest(mass, needed, 5 / 9).tolist() == [[True, True, False], [False, True, True], [False, False, True]]
    assert torch.equal(heaviest(mass, needed, 0.01), needed)
    assert lost_mass(mass, needed) == pytest.approx(24 / 27)
