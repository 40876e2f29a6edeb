"""Lists of tiles that are made in each call, and what a graph becomes. No kernel is built here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.attention.base import Grid, required
from sparsecc.attention.dynamic import DynamicMap, Margin, Pooled
from sparsecc.codegen.cuda import blocks
from sparsecc.codegen.cuda.chosen import lists, stand_in
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.kernels.block_attention import BITS, TILE
from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention
from sparsecc.runtime.module import CompiledModule, read_module
from tests.codegen.cuda.test_blocks import without_nvrtc
from tests.tolerance import assert_close

__all__ = ["without_nvrtc"]  # a fixture


def map_of(heads: int, tokens: int, block: int, number: int, causal: bool = False) -> DynamicMap:
    grid = Grid.line(tokens)
    return DynamicMap(grid, block, required(grid, block, causal).repeat(heads, 1, 1), Pooled(number), 0.5, causal)


def spec_of(found: DynamicMap, batch: int, kv_heads: int) -> BlockAttentionSpec:
    return BlockAttentionSpec(batch, found.heads, kv_heads, found.grid.tokens, 64, 0.2, found.block, "float16", found.causal)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 700), st.sampled_from([64, 128]), st.booleans(), st.floats(0, 1))
def test_lists_hold_what_is_kept_of_each_item(batch: int, heads: int, tokens: int, block: int, causal: bool, density: float) -> None:
    found = map_of(heads, tokens, block, 2, causal)
    generator = torch.Generator().manual_seed(tokens)
    keep = (torch.rand(batch, *found.required.shape, generator=generator) < density) & found.full | found.required
    order = blocks.pack(stand_in(found), batch).items[:, :2]
    items, tiles = lists(keep, order, block)
    rows = -(-tokens // TILE)
    assert (items.dtype, tiles.dtype, tuple(items.shape)) == (torch.int32, torch.int32, (batch * heads * rows, 4))
    assert {tuple(row[:2]) for row in items.tolist()} == {(head, row) for head in range(batch * heads) for row in range(rows)}
    for item in range(batch):
        assert torch.equal(blocks.unpack(blocks.Packed(items, tiles, None), spec_of(found, batch, heads), item), keep[item])
    for _, _, start, count in items.tolist():
        numbers = (tiles[start : start + count] & ((1 << BITS) - 1)).tolist()
        assert numbers == sorted(numbers, reverse=True)  # the kernel masks the first


@pytest.mark.parametrize("causal", [False, True])
def test_the_stand_in_keeps_as_many(causal: bool) -> None:
    found = map_of(2, 700, 64, 4, causal)
    counts = found.counts
    assert counts is not None and torch.equal(stand_in(found).keep.sum(-1), counts)
    free = DynamicMap(found.grid, 64, found.required, Margin(torch.zeros(2)), 0.4, causal)
    assert stand_in(free).density == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_the_operators_mean_what_the_map_means(block: int, causal: bool) -> None:
    found, generator = map_of(4, 500, block, 2, causal), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, count, 500, 64, generator=generator) for count in (4, 2, 2))
    order = blocks.pack(stand_in(found), 2).items[:, :2].contiguous()
    items, tiles = torch.ops.sparsecc.chosen_tiles(q, k, found.required, None, None, order, "pooled", 2, 0, block, 0.2, causal)
    y = blocks.meaning(spec_of(found, 2, 2), q, k, v, items, tiles, None, None)
    assert_close(y.contiguous(), DynamicBlockAttention(found, 0.2).reference(q, k, v).contiguous())
    for call in range(3):
        arguments = (q, k, found.required, None, torch.tensor(call), order, "pooled", 2, 2, block, 0.2, causal)
        now, of_now = torch.ops.sparsecc.chosen_tiles(*arguments)
        if call % 2:
            assert torch.equal(now, items) and torch.equal(of_now, tiles)
        else:
            dense = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=0.2, enable_gqa=True)
            assert_close(blocks.meaning(spec_of(found, 2, 2), q, k, v, now, of_now, None, None).contiguous(), dense)
        torch.library.opcheck(torch.ops.sparsecc.chosen_tiles.default, arguments, test_utils=("test_schema", "test_faketensor"))


class Shares(nn.Module):
    """Two heads of keys for four of queries, values as a projection wrote them."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=self.causal, enable_gqa=True)


def compiled(pattern: str, causal: bool, block: int, dtype: torch.dtype = torch.float16) -> tuple[CompiledModule, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 500, 64), (2, 2, 500, 64), (2, 500, 2, 64))
    given = tuple((torch.randn(shape, generator=generator) * 2).to(dtype) for shape in shapes)
    recipe = {"passes": [{"reorder_tokens": {"text_tokens": 10, "density": 0.8, "pattern": pattern, "block": block}}]}
    fixed = torch.export.export(Shares(causal), given)
    made = sparsecc.compile(fixed, given, recipe=recipe, calibration=[given], target="cuda:sm_90a")
    assert isinstance(made, CompiledModule)
    return made, given


@pytest.mark.parametrize(
    ("pattern", "causal", "block"),
    [("block_topk", False, 64), ("block_topk", True, 128), ("loki:8", True, 64), ("skip_softmax", False, 64)],
)
def test_a_recipe_becomes_lists_and_a_call(pattern: str, causal: bool, block: int, without_nvrtc: None, tmp_path: Any) -> None:
    made, given = compiled(pattern, causal, block)
    [plan] = made.plans
    assert plan.spec == BlockAttentionSpec(2, 4, 2, 500, 64, 0.125, block, "float16", causal, tokens_first="V")
    assert made.report.check is not None and made.report.check.max_rel < 0.02
    assert "choosing blocks is torch's, and not in the times" in str(made.report)
    made.save(tmp_path / "model.sparsecc")
    assert torch.equal(read_module(tmp_path / "model.sparsecc")(*given), made(*given))


@pytest.mark.parametrize("block", [64, 32], ids=["kernel", "torch"])
def test_a_compiled_model_counts_its_calls_and_its_file_too(block: int, without_nvrtc: None, tmp_path: Any) -> None:
    made, given = compiled("block_topk:refresh=3", False, block)
    plain = compiled("block_topk", False, block)[0](*given)
    dense = Shares(False)(*given)
    assert len(made.plans) == (block == 64)
    assert made.report.check is not None and made.report.check.max_rel < 0.02
    [site] = [site for site in made.report.sites if site.kind == "Attention"]
    kept = 1 - site.sparsity
    assert 0.84 < kept < 0.9 and site.output_error is not None and site.output_error > 0.01  # of calls that choose
    if block == 64:
        assert "these are of calls that choose, not of every 3rd one, which computes all" in str(made.report)
    targets = [str(node.target) for node in made.program.graph.nodes if node.op == "call_function"]
    assert "aten.add_.Tensor" in targets and "aten.copy_.default" not in targets  # the counter is written where it is
    made.save(tmp_path / "model.sparsecc")
    for module in (made, read_module(tmp_path / "model.sparsecc"), torch.compile(made, backend="aot_eager")):
        for call in range(7):
            y = module(*given)
            if call % 3:
                assert torch.equal(y, plain)
            else:
                assert (y - dense).abs().max() < 0.02 < 0.2 < (y - plain).abs().max()
        if module is not made:
            continue
        assert [int(counter) for name, counter in made.named_buffers() if name.endswith("calls")] == [7]
        made.save(tmp_path / "later.sparsecc")
        later = read_module(tmp_path / "later.sparsecc")
        assert torch.equal(later(*given), plain) and torch.equal(later(*given), plain) and not torch.equal(later(*given), plain)
        made.restart()


def test_sizes_that_the_kernel_does_not_take_stay_torchs(without_nvrtc: None, tmp_path: Any) -> None:
    for made, inputs in (compiled("block_topk", False, 32), compiled("block_topk", False, 64, torch.float32)):
        assert made.plans == []
        assert made.report.check is not None and made.report.check.max_rel < 0.02
        made.save(tmp_path / "model.sparsecc")
        assert torch.equal(read_module(tmp_path / "model.sparsecc")(*inputs), made(*inputs))
