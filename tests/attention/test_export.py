"""Block maps as FlexAttention, block sparse rows and SpargeAttn take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from sparsecc.attention import export
from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.attention.plan import Plan, Planned
from sparsecc.errors import RecipeError
from sparsecc.ops.block_attention.torch import reference


def some_map(heads: int, grid: Grid, block: int, causal: bool = False, ordered: bool = False, seed: int = 0) -> BlockMap:
    generator = torch.Generator().manual_seed(seed)
    keep = (torch.rand(heads, grid.blocks(block), grid.blocks(block), generator=generator) < 0.3) | required(grid, block)
    orders = torch.randint(0, 6, (heads,), generator=generator).to(torch.uint8) if ordered else None
    return BlockMap(grid, block, orders, keep.tril() if causal else keep, causal)


SIZES = given(st.integers(1, 3), st.integers(1, 60), st.sampled_from([4, 7]), st.booleans(), st.integers(0, 99))


@settings(max_examples=40, deadline=None)
@SIZES
def test_lists_and_rows_keep_what_the_map_keeps(heads: int, tokens: int, block: int, causal: bool, seed: int) -> None:
    found = some_map(heads, Grid.line(tokens), block, causal, seed=seed)
    assert torch.equal(export.from_flex(export.to_flex(found)), found.keep)
    assert torch.equal(export.from_bsr(export.to_bsr(found)), found.keep)
    assert torch.equal(export.block_mask(found).to_dense()[0].bool(), found.keep)


def test_blocks_that_need_a_mask_are_the_short_last_and_the_diagonal() -> None:
    dense = BlockMap(Grid.line(10), 4, None, torch.ones(1, 3, 3, dtype=torch.bool))
    assert export.to_flex(dense).full_kv_num_blocks.tolist() == [[[2, 2, 2]]]
    assert export.to_flex(dense).kv_indices[0, 0, :, 0].tolist() == [2, 2, 2]
    causal = BlockMap(Grid.line(12), 4, None, torch.ones(1, 3, 3, dtype=torch.bool).tril(), causal=True)
    assert export.to_flex(causal).full_kv_num_blocks.tolist() == [[[0, 1, 2]]]
    assert export.to_flex(causal).kv_indices[0, 0, :, 0].tolist() == [0, 1, 2]


def test_rows_of_a_head_are_as_scipy_has_them() -> None:
    keep = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    [rows] = export.to_bsr(BlockMap(Grid.line(9), 3, None, keep[None]))
    assert rows.indptr.tolist() == [0, 2, 3, 6] and rows.indices.tolist() == [0, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("tokens", [500, 64, 130])
def test_mask_ids_hold_all_that_the_map_keeps_and_no_more_than_needed(block: int, tokens: int) -> None:
    found = some_map(2, Grid.line(tokens), block)
    mask = export.to_bitmap(found)
    assert mask.shape == (1, 2, -(-tokens // 128), -(-tokens // 64)) and mask.dtype == torch.int8
    seen = found.keep.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :tokens, :tokens]
    for head, row, column in np.ndindex(*mask.shape[1:]):
        part = seen[head, row * 128 : (row + 1) * 128, column * 64 : (column + 1) * 64]
        assert bool(mask[0, head, row, column]) == bool(part.any())
        assert block == 64 or bool(part.all()) == bool(part.any())


def test_blocks_of_64_compute_more_as_mask_ids(tmp_path: Path) -> None:
    maps = {str(block): some_map(2, Grid.line(2048), block) for block in (64, 128)}
    finer, same = export.write(Plan.of("m", maps), "bitmap", tmp_path / "plan.npz")
    assert finer > 1.3 * maps["64"].density and same == maps["128"].density


def a_plan(block: int = 64) -> Plan:
    ordered = some_map(2, Grid(3, 7, 9, 5), block, ordered=True)
    own = torch.stack([torch.randperm(150, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]).int()
    grid = Grid.line(150)
    permuted = BlockMap(grid, block, own, some_map(2, grid, block).keep)
    return Plan("m", [Planned("a", ordered, (0.0, 0.5)), Planned("a", permuted, (0.5, 1.0)), Planned("b", some_map(3, grid, block, True))])


@pytest.mark.parametrize("form", export.FORMS)
def test_a_file_comes_back(tmp_path: Path, form: str) -> None:
    plan = a_plan()
    shares = export.write(plan, form, tmp_path / "plan.npz")
    for planned, found, share in zip(plan.planned, export.read(tmp_path / "plan.npz"), shares, strict=True):
        assert found.about["name"] == planned.site and tuple(found.about["steps"]) == planned.steps
        assert found.places is None or torch.equal(found.places.long(), planned.map.places())
        assert (found.places is None) == (planned.map.orders is None)
        if form != "bitmap":
            assert torch.equal(found.keep, planned.map.keep) and share == planned.map.density
    export.write(plan, form, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "plan.npz").read_bytes()


def test_a_file_that_says_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan.npz").write_bytes(b"older")
    monkeypatch.setattr(export, "to_flex", lambda found, right=export.to_flex: right(found)._replace(kv_num_blocks=right(found)[2]))
    with pytest.raises(ValueError, match="'a' was not exported as it is"):
        export.write(a_plan(), "flex", tmp_path / "plan.npz")
    assert (tmp_path / "plan.npz").read_bytes() == b"older"


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="blocks are of 32 tokens; 64 and 128 fit"):
        export.write(a_plan(32), "bitmap", tmp_path / "plan.npz")
    with pytest.raises(RecipeError, match="form 'csr' is none of flex, bsr, bitmap"):
        export.write(a_plan(), "csr", tmp_path / "plan.npz")
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(RecipeError, match=r"x\.npz: no exported plan"):
        export.read(tmp_path / "x.npz")


@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_computes_what_the_map_says(causal: bool) -> None:
    """Compiled, since FlexAttention in eager mode computes every block."""
    grid = Grid.line(150) if causal else Grid(2, 8, 9, 6)
    found = some_map(2, grid, 64, causal, ordered=not causal)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 150, 16, generator=generator) for _ in range(3))
    places = found.places()

    def reordered(x: Tensor) -> Tensor:
        return torch.stack([x[:, head, order] for head, order in enumerate(places)], 1)

    torch.compiler.reset()
    compute: Any = torch.compile(flex_attention, dynamic=False)
    y = compute(*map(reordered, (q, k, v)), block_mask=export.block_mask(found), scale=0.3)
    expected = reference(q, k, v, found, 0.3)
    assert (y - reordered(expected)).abs().max() < 1e-5
    assert not found.keep.all()
