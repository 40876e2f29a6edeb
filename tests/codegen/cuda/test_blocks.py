"""Block-sparse attention on a GPU: a map as the kernel reads it, and what a graph becomes. No kernel is built here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecc
from sparsecc.attention import orders
from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.codegen.cuda import blocks, built, operator
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.kernels.block_attention import TILE
from sparsecc.codegen.cuda.plan import Binary, Plan, Step
from sparsecc.errors import InputError
from sparsecc.ops.block_attention.torch import reference
from sparsecc.runtime.module import CompiledModule, read_module
from tests.tolerance import assert_close


def map_of(heads: int, grid: Grid, block: int, density: float, ordered: bool = False, causal: bool = False, seed: int = 0) -> BlockMap:
    generator = torch.Generator().manual_seed(seed)
    count = grid.blocks(block)
    keep = (torch.rand(heads, count, count, generator=generator) < density) | required(grid, block)
    orders = torch.randint(0, 6, (heads,), generator=generator).to(torch.uint8) if ordered else None
    return BlockMap(grid, block, orders, keep.tril() if causal else keep, causal)


def spec_of(block_map: BlockMap, batch: int, kv_heads: int, depth: int = 64) -> BlockAttentionSpec:
    heads, tokens = block_map.heads, block_map.grid.tokens
    ordered = block_map.orders is not None
    return BlockAttentionSpec(batch, heads, kv_heads, tokens, depth, 0.2, block_map.block, "float16", block_map.causal, ordered)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 700), st.sampled_from([64, 128]), st.floats(0, 1), st.integers(0, 9))
def test_unpack_is_the_inverse_of_pack(batch: int, heads: int, tokens: int, block: int, density: float, seed: int) -> None:
    block_map = map_of(heads, Grid.line(tokens), block, density, seed=seed)
    packed = blocks.pack(block_map, batch)
    assert torch.equal(blocks.unpack(packed, spec_of(block_map, batch, heads)), block_map.keep)
    rows = -(-tokens // TILE)
    assert packed.items.shape == (batch * heads * rows, 4) and packed.places is None
    assert {tuple(row[:2]) for row in packed.items.tolist()} == {(head, row) for head in range(batch * heads) for row in range(rows)}


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("way", ["plain", "ordered", "causal"])
def test_it_means_what_block_attention_means(block: int, heads: int, kv_heads: int, way: str) -> None:
    grid = Grid(5, 8, 9, 10) if way == "ordered" else Grid.line(370)
    block_map = map_of(heads, grid, block, 0.4, way == "ordered", way == "causal")
    spec = spec_of(block_map, 2, kv_heads)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, count, 370, 64, generator=generator).half() for count in (heads, kv_heads, kv_heads))
    key = operator.register(Plan(spec, {}, (Step(370, "block_attention", "", {}),), {}))
    y = blocks.block_attention_cuda(q, k, v, *blocks.pack(block_map, 2), key)
    expected = reference(q.float(), k.float(), v.float(), block_map, 0.2)
    assert (y.float() - expected).abs().max() < 2e-3
    assert y.transpose(1, 2).is_contiguous()


@pytest.fixture
def without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is built: what would be one is its own description."""

    def binary(self: Any, kernel: str, what: Any, arch: Any, function: Any, geometry: Any) -> Binary:
        return Binary(kernel, ("I", "K", "L", "P", "Q", "V", "Y"), Geometry((1, 1, 1), 32, 0), f"{kernel} {what} {arch}".encode(), "source")

    monkeypatch.setattr(built.Builder, "_binary", binary)


class Attends(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("block", [64, 128])
def test_a_recipe_becomes_a_call(block: int, without_nvrtc: None, tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 330, 64, generator=generator).bfloat16() for _ in range(3))
    recipe = {"passes": [{"reorder_tokens": {"grid": [5, 8, 8], "text_tokens": 10, "density": 0.9, "block": block}}]}
    fixed = torch.export.export(Attends(), (q, k, v))
    made = sparsecc.compile(fixed, (q, k, v), recipe=recipe, calibration=[(q, k, v)], target="cuda:sm_90a")
    assert isinstance(made, CompiledModule)
    [plan] = made.plans
    assert plan.spec == BlockAttentionSpec(1, 2, 2, 330, 64, 0.125, block, ordered=True)
    assert made.report.check is not None and made.report.check.max_rel < 0.02
    assert "1 of block attention 2/2 heads of 64 on 330: block_attention" in str(made.report)
    made.save(tmp_path / "model.sparsecc")
    assert torch.equal(read_module(tmp_path / "model.sparsecc")(q, k, v), made(q, k, v))


def test_orders_token_by_token_are_packed_as_they_are() -> None:
    grid = Grid(3, 8, 9, 10)
    given = torch.stack([orders.morton(grid), orders.hilbert(grid)]).int()
    block_map = BlockMap(grid, 64, given, map_of(2, grid, 64, 0.4).keep)
    packed = blocks.pack(block_map, 1)
    assert packed.places is not None and torch.equal(packed.places, given)
    q, k, v = (torch.randn(1, 2, grid.tokens, 64) for _ in range(3))
    assert_close(blocks.meaning(spec_of(block_map, 1, 2), q, k, v, *packed), reference(q, k, v, block_map, 0.2))


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (64, "attention 'attention' runs on FlexAttention, which inductor compiles at its first call"),
        (24, "runs block by block in torch, which is slow: FlexAttention takes blocks of a multiple of 16 tokens, not of 24"),
    ],
)
def test_sizes_that_our_kernel_does_not_take(block: int, said: str, tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    given = tuple(torch.randn(1, 2, 330, 80, generator=generator).bfloat16() for _ in range(3))
    recipe = {"passes": [{"reorder_tokens": {"grid": [5, 8, 8], "text_tokens": 10, "density": 0.9, "block": block}}]}
    made = sparsecc.compile(torch.export.export(Attends(), given), given, recipe=recipe, calibration=[given], target="cuda:sm_90a")
    assert isinstance(made, CompiledModule) and made.plans == [] and said in str(made.report)
    assert made.report.check is not None and made.report.check.max_rel < 0.02
    made.save(tmp_path / "model.sparsecc")
    assert torch.equal(read_module(tmp_path / "model.sparsecc")(*given), made(*given))


class Shares(nn.Module):
    """Two heads of keys for four of queries, values as a projection wrote them."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v.transpose(1, 2), enable_gqa=True)


@pytest.mark.parametrize("pattern", ["paro", "sliding_window:130"])
def test_heads_that_share_keys(pattern: str, without_nvrtc: None) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 330, 64), (1, 2, 330, 64), (1, 330, 2, 64))
    given = tuple(torch.randn(shape, generator=generator).half() for shape in shapes)
    recipe = {"passes": [{"reorder_tokens": {"grid": [5, 8, 8], "text_tokens": 10, "density": 0.8, "pattern": pattern}}]}
    made = sparsecc.compile(torch.export.export(Shares(), given), given, recipe=recipe, calibration=[given], target="cuda:sm_90a")
    assert isinstance(made, CompiledModule)
    [plan] = made.plans
    assert plan.spec == BlockAttentionSpec(1, 4, 2, 330, 64, 0.125, 64, "float16", ordered=pattern == "paro", tokens_first="V")
    assert made.report.check is not None and made.report.check.max_rel < 0.02


def test_rows_in_a_heads_order() -> None:
    block_map = map_of(4, Grid(5, 8, 9, 10), 64, 0.4, ordered=True)
    places, k = block_map.places(), torch.randn(2, 2, 370, 64)
    found = blocks.in_order(k, places.int())
    assert all(torch.equal(found[b, head], k[b, head // 2][places[head]]) for b in range(2) for head in range(4))


def test_other_inputs_than_the_plans() -> None:
    block_map = map_of(2, Grid.line(200), 64, 0.5)
    packed = blocks.pack(block_map, 1)
    key = operator.register(Plan(spec_of(block_map, 1, 2), {}, (Step(200, "block_attention", "", {}),), {}))
    q = torch.randn(1, 2, 200, 64).half()
    with pytest.raises(
        InputError, match=r"block_attention_cuda takes float16 \(1, 2, 200, 64\) on cpu, k is torch.float16 \(1, 2, 199, 64\)"
    ):
        blocks.block_attention_cuda(q, q[:, :, 1:], q, *packed, key)
    with pytest.raises(InputError, match="its lists of tiles are not those of a map"):
        blocks.block_attention_cuda(q, q, q, *blocks.pack(block_map, 2), key)
    with pytest.raises(InputError, match="this plan is for tokens in the order of the model"):
        blocks.block_attention_cuda(q, q, q, packed.items, packed.tiles, torch.zeros(2, 200, dtype=torch.int32), key)
