from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsecc.codegen.cpu.operators import block_attention
from sparsecc.codegen.cpu.operators.block_attention import BlockAttentionSpec
from sparsecc.codegen.cpu.target import Target, parse
from tests.codegen.cpu.kernels.assembly import hottest_loop, loops, registers_of, stores
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, built, call_for_several, few, random
from tests.tolerance import assert_close

V = HERE.lanes
SPECS = {  # kept is counted once the blocks are drawn
    "whole_blocks": BlockAttentionSpec(1, 2, 2, 8 * V, 32, 32, 2 * V, 0, 0.2),
    "last_block_short": BlockAttentionSpec(2, 3, 3, 5 * V + 3, 64, 64, 2 * V, 0, 0.125),
    "one_token": BlockAttentionSpec(2, 2, 2, 1, 8, 8, V, 0, 0.3),
    "odd_head_dims": BlockAttentionSpec(2, 2, 2, 3 * V, 5, 7, V, 0, 0.5),
    "wide_heads": BlockAttentionSpec(1, 2, 2, 4 * V, 128, 96, 2 * V, 0, 0.1),
    "grouped_heads": BlockAttentionSpec(2, 6, 2, 3 * V, 16, 8, V, 0, 0.3),
    "block_below_a_vector": BlockAttentionSpec(1, 2, 2, 11, 8, 8, 3, 0, 0.3),
    "block_of_one": BlockAttentionSpec(1, 2, 2, 5, 8, 8, 1, 0, 0.3),
    "block_beyond_a_vector": BlockAttentionSpec(2, 2, 2, 4 * V, 8, 8, V + 5, 0, 0.3),
    "causal": BlockAttentionSpec(2, 4, 2, 5 * V + 3, 16, 8, 2 * V, 0, 0.2, causal=True),
    "padding_mask": BlockAttentionSpec(2, 4, 2, 2 * V + 3, 8, 8, V, 0, 0.3, mask=(2, 1, 1, 2 * V + 3)),
    "mask_by_head": BlockAttentionSpec(1, 2, 2, V + 3, 8, 8, V, 0, 0.3, mask=(1, 2, V + 3, V + 3)),
    "causal_odd_block": BlockAttentionSpec(1, 2, 2, 4 * V, 8, 8, V + 5, 0, 0.3, causal=True),
}


def drawn(spec: BlockAttentionSpec, density: float = 0.4, seed: int = 0) -> tuple[BlockAttentionSpec, np.ndarray, np.ndarray]:
    """The spec with its blocks counted, an order of its own for each head, and which blocks are kept; no row is empty. Causal, the
    diagonal and some below it in the one order that there is."""
    rng = np.random.default_rng(seed)
    places = np.stack([rng.permutation(spec.tokens) for _ in range(spec.heads)])
    keep = rng.random((spec.heads, spec.blocks, spec.blocks)) < density
    np.put_along_axis(keep, rng.integers(spec.blocks, size=(spec.heads, spec.blocks, 1)), True, axis=2)
    if spec.causal:
        places, keep = np.tile(np.arange(spec.tokens), (spec.heads, 1)), np.tril(keep) | np.eye(spec.blocks, dtype=bool)
    return replace(spec, kept=int(keep.sum())), places, keep


def run(
    spec: BlockAttentionSpec, places: np.ndarray, keep: np.ndarray, target: Target = HERE, factor: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(result, oracle). factor: of the queries."""
    rng = np.random.default_rng(0)
    q = factor * random(rng, spec.batch, spec.heads, spec.tokens, spec.head_dim)
    k = random(rng, spec.batch, spec.kv_heads, spec.tokens, spec.head_dim)
    v = random(rng, spec.batch, spec.kv_heads, spec.tokens, spec.value_dim)
    masks = [] if spec.mask is None else [np.where(rng.random(spec.mask) < 0.4, np.float32(-np.inf), random(rng, *spec.mask))]
    for mask in masks:
        mask[..., 0, : spec.block] = -np.inf  # a query or more may see nothing
    where, *tables = block_attention.prepare(places, keep, spec, target)
    gathered = call_for_several(built(block_attention.build_gather, spec, target), [q, k, v, where], spec.gathered(target))
    assert not any(np.isnan(array).any() for array in gathered)
    [out] = call_for_several(
        built(block_attention.build, spec, target),
        [*gathered, where, *tables, *masks],
        [(spec.batch, spec.heads, spec.tokens, spec.value_dim)],
    )
    return torch.from_numpy(out), oracle(spec, places, keep, q, k, v, *masks).float()


def oracle(spec: BlockAttentionSpec, places: np.ndarray, keep: np.ndarray, *inputs: np.ndarray) -> Tensor:
    """In float64, with a mask of tokens."""
    position = np.argsort(places, axis=1)  # of each token, in the order of each head
    block = position // spec.block
    mask = torch.from_numpy(np.stack([keep[h][np.ix_(block[h], block[h])] for h in range(spec.heads)]))
    mask = mask.tril() if spec.causal else mask
    q, k, v, *masks = (torch.from_numpy(x).double() for x in inputs)
    k, v = (x.repeat_interleave(spec.heads // spec.kv_heads, 1) for x in (k, v))
    scores = spec.scale * q @ k.mT + (masks[0] if masks else 0)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0) @ v


@pytest.mark.parametrize("name", SPECS)
def test_against_torch(name: str) -> None:
    assert_close(*run(*drawn(SPECS[name])))


@pytest.mark.parametrize("name", ["last_block_short", "block_below_a_vector"])
def test_short_vectors(name: str) -> None:
    assert_close(*run(*drawn(SPECS[name]), target=NARROW))


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_one_block_of_keys_and_all_of_them(density: float) -> None:
    spec, places, keep = drawn(SPECS["last_block_short"], density)
    assert set(keep.sum(axis=2).ravel()) == {spec.blocks if density else 1}
    assert_close(*run(spec, places, keep))


def test_large_scores_do_not_overflow() -> None:
    """A softmax that is nearly one-hot, its largest score in one block after the other."""
    got, expected = run(*drawn(SPECS["last_block_short"], 0.8), factor=300.0)
    assert got.isfinite().all()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-2)  # scores of thousands hold three decimals


@few
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    draw, few_heads = data.draw, st.integers(1, 3)
    kv_heads, dims = draw(few_heads), st.integers(1, 40)
    spec = BlockAttentionSpec(
        draw(st.integers(1, 2)), kv_heads * draw(few_heads), kv_heads, draw(st.integers(1, 70)), draw(dims), draw(dims),
        draw(st.integers(1, 3 * V)), 0, 0.3,
    )  # fmt: skip
    assert_close(*run(*drawn(spec, draw(st.sampled_from([0.0, 0.3, 1.0])))))


@settings(deadline=None, derandomize=True)
@given(batch=st.integers(1, 3), heads=st.integers(1, 5), blocks=st.integers(1, 9), threads=st.integers(1, 8), density=st.floats(0, 1))
def test_threads_share_the_work(batch: int, heads: int, blocks: int, threads: int, density: float) -> None:
    spec, places, keep = drawn(BlockAttentionSpec(batch, heads, heads, blocks * 8, 8, 8, 8, 0, 1.0), density)
    where, first, columns, jobs = block_attention.prepare(places, keep, spec, replace(HERE, threads=threads))
    assert where.shape == (heads, blocks * 8)
    assert len(columns) == spec.kept == first[-1]
    assert sorted(jobs) == list(range(batch * heads * blocks))
    lengths = np.tile(keep.sum(axis=2).ravel(), batch)
    part = -(-len(jobs) // threads)
    shares = [int(lengths[jobs[t * part : (t + 1) * part]].sum()) for t in range(threads)]
    assert max(shares) <= lengths.sum() / threads + 2 * lengths.max()


BIG, *_ = drawn(BlockAttentionSpec(1, 4, 4, 1024, 64, 64, 64, 0, 0.125))


def test_inner_loops_are_multiply_adds_in_registers() -> None:
    target = parse("cpu:skylake-avx512", 2)
    text = assembly(block_attention.build(BIG, target), target)
    hot = [loop for loop in loops(text) if loop.count("vfmadd231ps") >= 16]
    for loop in [min(hot, key=len), hottest_loop(text, "vfmadd231ps")]:
        assert registers_of(loop, "vfmadd") == {"zmm"}
        assert not stores(loop), "accumulators are spilled"
        assert "call" not in loop
    scratch = [loop for loop in loops(text) if "vfmadd231ps" in loop and "AllocWorkspace" in loop]
    assert len(scratch) == 1, "scratch is taken once for a block of queries, not for each block of keys"
