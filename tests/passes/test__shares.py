"""Densities shared out by loss, against the same density everywhere."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from sparsecc.attention.base import BlockMap
from sparsecc.calibration.context import Context
from sparsecc.calibration.outputs import Outputs
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention
from sparsecc.passes.base import PassResult
from sparsecc.passes.reorder_tokens import ReorderTokens
from tests.laws.hosts import HOSTS
from tests.passes.attending import BLOCK, BLOCKS, GRID, HEADS, graph, image

every_host = pytest.mark.parametrize("host", HOSTS)
SAMPLES = [(image(1),), (image(2),)]


@cache
def applied(host: str, allocation: str, density: float = 0.3, **fields: Any) -> PassResult:
    step = ReorderTokens(grid=GRID, block=BLOCK, allocation=allocation, density=density, **fields)
    return step.apply(graph(host), Context(calibration=SAMPLES))


def maps(of: Graph) -> list[BlockMap]:
    return [site.block_map for site in of.sites(Attention) if isinstance(site.block_map, BlockMap)]


@every_host
def test_what_loses_much_keeps_all_and_the_others_what_is_left(host: str) -> None:
    found = maps(applied(host, "sensitivity").graph)
    kept = [int(keep.count_nonzero()) for one in found for keep in one.keep]
    assert sum(kept) == int(0.3 * 2 * HEADS * BLOCKS**2)
    assert kept[0] > 0.7 * BLOCKS**2
    assert max(kept[1:]) < 0.25 * BLOCKS**2


@every_host
@pytest.mark.parametrize(("density", "part"), [(0.15, 1), (0.3, 0.25), (0.5, 0.25)])
def test_the_model_loses_less_than_with_the_same_everywhere(host: str, density: float, part: float) -> None:
    outputs = Outputs(graph(host), [(image(5),)])
    shared, uniform = (outputs.error(applied(host, allocation, density).graph) for allocation in ("sensitivity", "uniform"))
    assert shared < part * uniform


@every_host
@pytest.mark.parametrize("density", [1 / BLOCKS, 0.101, 0.77, 1.0])
def test_all_together_keep_the_density_and_no_block_more(host: str, density: float) -> None:
    result = applied(host, "sensitivity", density)
    kept = sum(int(one.keep.count_nonzero()) for one in maps(result.graph))
    refused = sum(match.refused is not None for match in result.matches)
    assert kept + refused * HEADS * BLOCKS**2 == int(density * 2 * HEADS * BLOCKS**2 + 1e-9)


def test_both_hosts_share_out_alike_and_twice_the_same() -> None:
    first, second = (maps(applied(host, "sensitivity").graph) for host in HOSTS)
    for one, other in zip(first, second, strict=True):
        assert one.head_densities == pytest.approx(other.head_densities, abs=0.02)
    step = ReorderTokens(grid=GRID, block=BLOCK, allocation="sensitivity", density=0.3)
    again = maps(step.apply(graph("fx"), Context(calibration=SAMPLES)).graph)
    assert all(torch.equal(one.keep, other.keep) for one, other in zip(first, again, strict=True))


def test_a_layer_that_keeps_everything_is_left_as_it_is_and_says_so() -> None:
    whole = [match.refused.reason for match in applied("fx", "sensitivity", 1.0).matches if match.refused]
    assert whole == ["sensitivity keeps all of its blocks: other layers lose less by leaving out theirs"] * 2


def test_a_pattern_without_orders_is_shared_out_too() -> None:
    result = ReorderTokens(pattern="sliding_window", block=BLOCK, allocation="sensitivity", density=0.4).apply(
        graph("fx"), Context(calibration=SAMPLES)
    )
    first, second = maps(result.graph)
    assert first.orders is None
    assert first.head_densities[0] > 2 * max(first.head_densities[1], *second.head_densities)
    assert sum(one.density for one in (first, second)) / 2 <= 0.4


def test_heads_above_the_error_are_dense_beside_what_is_shared_out() -> None:
    first, *_ = maps(applied("fx", "sensitivity", 0.15, max_error=0.01).graph)
    assert first.dense_heads == [0]


def test_what_the_shares_leave_dense_is_not_said_to_be_above_the_error() -> None:
    reasons = {match.refused.reason for match in applied("fx", "sensitivity", 1.0, max_error=0.5).matches if match.refused}
    assert reasons == {"sensitivity keeps all of its blocks: other layers lose less by leaving out theirs"}
    result = ReorderTokens(grid=GRID, block=BLOCK, density=1.0, max_error=0.5).apply(graph("fx"), Context(calibration=SAMPLES))
    assert [one.density for one in maps(result.graph)] == [1.0, 1.0]


def test_where_nothing_can_be_shared_out() -> None:
    with pytest.raises(RecipeError, match=r"^allocation: no 'sensitivty'; did you mean 'sensitivity'"):
        ReorderTokens(grid=GRID, allocation="sensitivty")
    with pytest.raises(RecipeError, match=r"^allocation: owl divides by weights, which attention has none of"):
        ReorderTokens(grid=GRID, allocation="owl")
    with pytest.raises(RecipeError, match=r"^plan: its maps are chosen already; leave allocation out"):
        ReorderTokens(plan="plan.json", allocation="sensitivity")
    with pytest.raises(RecipeError, match=r"^allocation: needs calibration inputs"):
        ReorderTokens(pattern="sliding_window", allocation="sensitivity").apply(graph("fx"))
