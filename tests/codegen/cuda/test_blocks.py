"""Block-sparse attention on a GPU: a map as the kernel reads it, and what a graph becomes. No kernel is built here."""

from __future__ import annotations

from dataclasses import replace
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
from sparsecc.codegen.cuda import blocks, built, choose, operator
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.kernels.block_attention import TILE
from sparsecc.codegen.cuda.plan import Binary, Plan, Step
from sparsecc.codegen.cuda.target import Target
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
    y = blocks.block_attention_cuda(q, k, v, *blocks.pack(block_map, 2), None, key)
    expected = reference(q.float(), k.float(), v.float(), block_map, 0.2)
    assert (y.float() - expected).abs().max() < 2e-3
    assert y.transpose(1, 2).is_contiguous()


@pytest.fixture
def without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is built: what would be one is its own description."""

    def binary(self: Any, kernel: str, what: Any, arch: Any, function: Any, geometry: Any) -> Binary:
        return Binary(kernel, ("I", "K", "L", "P", "Q", "V", "Y"), Geometry((1, 1, 1), 32, 0), f"{kernel} {what} {arch}".encode(), "source")

    monkeypatch.setattr(built.Builder, "_binary", binary)


@pytest.mark.parametrize("ordered", [False, True])
def test_hidden_keys(ordered: bool) -> None:
    block_map = map_of(4, Grid(5, 8, 9, 10), 64, 0.4, ordered)
    spec = replace(spec_of(block_map, 2, 2), masked=True)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, count, 370, 64, generator=generator).half() for count in (4, 2, 2))
    seen = torch.rand(2, 1, 1, 370, generator=generator) < 0.7
    seen[1] = False  # a sequence that sees nothing gets zeros
    key = operator.register(Plan(spec, {}, (Step(370, "block_attention", "", {}),), {}))
    y = blocks.block_attention_cuda(q, k, v, *blocks.pack(block_map, 2), seen, key)
    assert (y.float() - reference(q.float(), k.float(), v.float(), block_map, 0.2, seen)).abs().max() < 2e-3
    assert not y[1].any()
    words = blocks.pack_seen(seen, spec, blocks.pack(block_map, 2).places)
    for head, places in enumerate(block_map.places() if ordered else [torch.arange(370)]):
        bits = [int(words[0, head, place // 32]) >> (place % 32) & 1 for place in range(370)]
        assert bits == seen[0, 0, 0, places].int().tolist()
    with pytest.raises(InputError, match=r"this plan takes bool \(2, 1, 1, 370\), which keys are seen"):
        blocks.block_attention_cuda(q, k, v, *blocks.pack(block_map, 2), None, key)


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


@pytest.mark.parametrize("faster", ["block_attention in int8", "block_attention"])
def test_int8_is_timed_beside_the_models_own_numbers(faster: str, without_nvrtc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def times(spec: Any, plans: Any, kept: Any, with_flex: bool) -> Any:
        assert [plan.spec.int8 for plan in plans.values()] == [False, True]
        return {**{name: 1.0 if name == faster else 2.0 for name in plans}, "torch": 3.0, "FlexAttention": 2.5}, []

    monkeypatch.setattr(choose, "_alone_us", times)
    spec = BlockAttentionSpec(1, 2, 2, 330, 64, 0.125, 64, ordered=True, int8=True)
    chooser = choose.Chooser(Target(("sm_90a",)), built.Builder(), measure=True)
    choice = chooser.alone(spec)
    assert choice.plan is not None and choice.rows[0].chosen == faster and f"{faster} 1.0 µs" in choice.reason
    assert choice.plan.spec == replace(spec, int8=faster.endswith("int8"))
    unmeasured = replace(chooser, measure=False, _alone={}).alone(spec)
    assert unmeasured.plan is not None and unmeasured.plan.spec == replace(spec, int8=False)


def test_a_recipe_may_ask_for_int8(without_nvrtc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    chosen = choose.Chooser.alone
    monkeypatch.setattr(
        choose.Chooser, "alone", lambda self, spec, *rest, **named: asked.append(spec) or chosen(self, spec, *rest, **named)
    )
    given = tuple(torch.randn(1, 2, 330, 64).bfloat16() for _ in range(3))
    recipe = {"passes": [{"reorder_tokens": {"pattern": "sliding_window:130", "precision": "int8"}}]}
    made = sparsecc.compile(torch.export.export(Attends(), given), given, recipe=recipe, target="cuda:sm_90a")
    assert [spec.int8 for spec in asked] == [True]
    assert made.report.check is not None and made.report.check.max_rel < 0.05


@pytest.mark.parametrize("ordered", [False, True])
def test_int8_means_what_block_attention_in_int8_means(ordered: bool) -> None:
    block_map = map_of(4, Grid(5, 8, 9, 10), 64, 0.4, ordered)
    spec = replace(spec_of(block_map, 2, 2), int8=True)
    q, k, v = blocks.example(spec, torch.device("cpu"))
    plan = operator.register(Plan(spec, {}, (Step(370, "block_attention", "", {}),), {}))
    y = blocks.block_attention_cuda(q, k, v, *blocks.pack(block_map, 2), None, plan)
    assert_close(y, reference(q.float(), k.float(), v.float(), block_map, 0.2, precision="int8").half())
    assert not torch.equal(y, reference(q.float(), k.float(), v.float(), block_map, 0.2).half())


def test_orders_token_by_token_are_packed_as_they_are() -> None:
    grid = Grid(3, 8, 9, 10)
    given = torch.stack([orders.morton(grid), orders.hilbert(grid)]).int()
    block_map = BlockMap(grid, 64, given, map_of(2, grid, 64, 0.4).keep)
    packed = blocks.pack(block_map, 1)
    assert packed.places is not None and torch.equal(packed.places, given)
    q, k, v = (torch.randn(1, 2, grid.tokens, 64) for _ in range(3))
    assert_close(blocks.meaning(spec_of(block_map, 1, 2), q, k, v, *packed, None), reference(q, k, v, block_map, 0.2))


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


class Pads(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, seen)


def test_a_padding_mask_goes_into_the_kernel(without_nvrtc: None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 330, 64, generator=generator).half() for _ in range(3))
    given = (q, k, v, torch.arange(330)[None, None, None] < torch.tensor([330, 300])[:, None, None, None])
    recipe = {"passes": [{"reorder_tokens": {"pattern": "sliding_window:130"}}]}
    made = sparsecc.compile(torch.export.export(Pads(), given), given, recipe=recipe, target="cuda:sm_90a")
    assert isinstance(made, CompiledModule)
    [plan] = made.plans
    assert isinstance(plan.spec, BlockAttentionSpec) and plan.spec.masked
    assert made.report.check is not None and made.report.check.max_rel < 0.02


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
        blocks.block_attention_cuda(q, q[:, :, 1:], q, *packed, None, key)
    with pytest.raises(InputError, match="its lists of tiles are not those of a map"):
        blocks.block_attention_cuda(q, q, q, *blocks.pack(block_map, 2), None, key)
    with pytest.raises(InputError, match="this plan is for tokens in the order of the model"):
        blocks.block_attention_cuda(q, q, q, packed.items, packed.tiles, torch.zeros(2, 200, dtype=torch.int32), None, key)
