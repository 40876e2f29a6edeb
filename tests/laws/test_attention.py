"""What holds for every attention pattern, token order, length and host."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from models._locality import SCALE, planted
from sparsecc.attention import orders
from sparsecc.attention.base import AXIS_ORDERS, Asked, BlockMap, Choice, Grid, Pattern, Sample, least_density, required
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention
from sparsecc.ops.block_attention.torch import BlockAttention, reference
from tests.laws.hosts import HOSTS
from tests.laws.members import ATTENTION
from tests.tolerance import RELATIVE, assert_close

HEADS, DIM = 6, 8
every_host = pytest.mark.parametrize("host", HOSTS)
STATIC = {name: pattern for name, pattern in ATTENTION.items() if not pattern.dynamic}  # the others: tests/attention/test_dynamic.py
every_pattern = pytest.mark.parametrize("pattern", STATIC.values(), ids=STATIC.keys())
LENGTHS = [Grid(3, 5, 7), Grid(3, 5, 7, 6), Grid(2, 3, 5, 3, text_first=False), Grid(1, 8, 8), Grid(1, 1, 1)]
every_length = pytest.mark.parametrize("grid", LENGTHS, ids=str)
GRIDS = st.builds(Grid, st.integers(1, 4), st.integers(1, 6), st.integers(1, 7), st.integers(0, 9), st.booleans())


class SelfAttention(nn.Module):
    """For a fixed number of tokens, all else as a transformer writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(HEADS * DIM, 3 * HEADS * DIM), nn.Linear(HEADS * DIM, 9)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM)).permute(2, 0, 3, 1, 4)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@cache
def attending(host: str, grid: Grid) -> tuple[Graph, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(grid.tokens)
        module, x = SelfAttention().eval(), torch.randn(2, grid.tokens, HEADS * DIM)
    return HOSTS[host](module, x), x


def some_map(grid: Grid, block: int, density: float = 0.4, by_token: bool = False) -> BlockMap:
    """One head for each order of axes, or for each of all orders in turn."""
    keep = torch.rand(HEADS, grid.blocks(block), grid.blocks(block), generator=torch.Generator().manual_seed(3)) < density
    by_axes = torch.arange(HEADS).to(torch.uint8)
    given = torch.stack([all_orders(grid)[-1 - head] for head in range(HEADS)]).int() if by_token else by_axes
    return BlockMap(grid, block, given, keep | required(grid, block))


def all_orders(grid: Grid) -> list[Tensor]:
    """The six of axes, the curves, and one of clusters."""
    keys = torch.randn(grid.tokens, DIM, generator=torch.Generator().manual_seed(grid.tokens))
    axes = [grid.permutation(order) for order in range(len(AXIS_ORDERS))]
    return [*axes, orders.morton(grid), orders.hilbert(grid), orders.clusters(keys, grid, 8)]


def replaced(graph: Graph, block_map: BlockMap) -> Graph:
    result = graph.copy()
    [site] = result.sites(Attention)
    result.replace(site, BlockAttention(block_map, site.scale))
    return result


@every_host
@every_length
def test_a_replaced_site_gives_what_the_operator_means_and_all_blocks_what_it_gave(host: str, grid: Grid) -> None:
    graph, x = attending(host, grid)
    [site] = graph.sites(Attention)
    run = graph.run((x,), [site.name, "out"])
    for block_map in (some_map(grid, 4), some_map(grid, 4, density=1.1, by_token=True)):
        after = replaced(graph, block_map).run((x,), [site.name, "out"])
        q, k, v = run.taps[site.name]
        expected = reference(q, k, v, block_map, site.scale).transpose(1, 2).flatten(2)
        assert_close(after.taps["out"][0].contiguous(), expected)
    assert_close(after.outputs[0], run.outputs[0])


@every_host
@pytest.mark.parametrize("by_token", [False, True], ids=["axes", "by_token"])
def test_it_is_found_again_with_its_map_also_after_a_file(host: str, by_token: bool, tmp_path: Path) -> None:
    grid = LENGTHS[1]
    graph, x = attending(host, grid)
    block_map = some_map(grid, 4, by_token=by_token)
    after = replaced(graph, some_map(grid, 4, by_token=by_token))
    path = tmp_path / {"fx": "m.pt2", "onnx": "m.onnx"}[host]
    after.save(path)
    loaded = FxGraph.load(path) if host == "fx" else OnnxGraph.from_file(path)
    [before] = graph.sites(Attention)
    for found in (after, after.copy(), loaded):
        [site] = found.sites(Attention)
        assert (site.name, site.heads, site.kv_heads, site.head_dim) == (before.name, HEADS, HEADS, DIM)
        assert site.scale == pytest.approx(before.scale)
        assert isinstance(site.block_map, BlockMap)
        assert (site.grid, site.block_map.block) == (grid, 4)
        assert torch.equal(site.block_map.places(), block_map.places())
        assert torch.equal(site.block_map.keep, block_map.keep)
        assert torch.equal(found.run((x,)).outputs[0], after.run((x,)).outputs[0])
        assert list(found.site_graph().edges) == list(graph.site_graph().edges)


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@given(grid=GRIDS, block=st.integers(1, 70), order=st.integers(0, 8))
def test_density_one_is_dense_attention_for_every_order_length_and_dtype(grid: Grid, block: int, order: int, dtype: torch.dtype) -> None:
    q, k, v = inputs(grid, dtype)
    keep = torch.ones(2, grid.blocks(block), grid.blocks(block), dtype=torch.bool)
    block_map = BlockMap(grid, block, orders.compact([all_orders(grid)[order], grid.permutation(0)], grid), keep)
    assert_close(reference(q, k, v, block_map, 0.5), functional.scaled_dot_product_attention(q, k, v, scale=0.5))


def inputs(grid: Grid, dtype: torch.dtype = torch.float32) -> Sample:
    generator = torch.Generator().manual_seed(0)
    return Sample(*(torch.randn(1, 2, grid.tokens, DIM, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)))


@given(grid=GRIDS, order=st.integers(0, 8))
def test_an_order_is_a_permutation_and_leaves_the_text(grid: Grid, order: int) -> None:
    permutation = all_orders(grid)[order]
    assert torch.equal(permutation.sort().values, torch.arange(grid.tokens))
    assert torch.equal(permutation[grid.text], torch.arange(grid.tokens)[grid.text])


def chosen(pattern: Pattern, grid: Grid, density: float, block: int, samples: list[Sample], causal: bool = False) -> Choice:
    return pattern.choose(Asked(grid, 2, SCALE, density, block, causal=causal, samples=samples))


@every_pattern
@given(grid=GRIDS, block=st.sampled_from([3, 8, 64]), density=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_a_pattern_keeps_what_was_asked_and_what_it_must(pattern: Pattern, grid: Grid, block: int, density: float, seed: int) -> None:
    sample = planted(grid, (seed % 6, 0), seed)
    first, second = (chosen(pattern, grid, density, block, [sample]) for _ in range(2))
    keep = first.map.keep
    least = round(least_density(grid, block) * keep[0].numel())
    most = max(round(density * keep[0].numel()), least)
    for kept in keep:
        assert not pattern.exact_density or int(kept.sum()) == most
    if pattern == type(pattern)() and not pattern.exact_density:
        assert int(keep.sum()) <= len(keep) * most
    assert keep[:, required(grid, block)].all()
    assert torch.equal(second.map.keep, keep)
    assert torch.equal(second.map.places(), first.map.places())
    assert pattern.reorders or first.map.orders is None
    assert first.lost is not None and ((first.lost >= 0) & (first.lost <= 1)).all()


@every_pattern
@pytest.mark.parametrize("grid", LENGTHS[:3], ids=str)
def test_a_pattern_that_may_keep_all_is_dense_attention(pattern: Pattern, grid: Grid) -> None:
    if not pattern.exact_density and pattern != type(pattern)():
        return  # its options say what it keeps
    sample = inputs(grid)
    for causal in (False, True)[: 1 if pattern.reorders else 2]:
        found = chosen(pattern, grid, 1.0, 8, [sample], causal)
        assert found.map.density == 1
        expected = functional.scaled_dot_product_attention(*sample, scale=SCALE, is_causal=causal)
        assert_close(reference(*sample, found.map, SCALE), expected)


@every_pattern
def test_more_blocks_lose_no_more(pattern: Pattern) -> None:
    grid = Grid(3, 6, 7, 4)
    sample = planted(grid, (2, 5))
    found = [chosen(pattern, grid, density, 8, [sample]) for density in (0.2, 0.4, 0.7, 1.0)]
    lost = torch.stack([choice.lost for choice in found if choice.lost is not None])
    assert len(lost) == 4 and (lost.diff(dim=0) <= 0).all()
    if pattern == type(pattern)():
        assert found[-1].map.keep.all() and lost[-1].tolist() == [0.0, 0.0]


@every_pattern
def test_a_pattern_that_keeps_the_order_is_for_causal_attention_and_one_without_samples_needs_none(pattern: Pattern) -> None:
    grid = Grid.line(50, 3)
    if not pattern.needs_samples:
        found = chosen(pattern, grid, 0.5, 8, [], causal=not pattern.reorders)
        assert (found.lost, found.error, found.map.causal) == (None, None, not pattern.reorders)
    if not pattern.reorders:
        assert chosen(pattern, grid, 0.5, 8, [planted(grid, (0, 0))], causal=True).map.density <= 1
