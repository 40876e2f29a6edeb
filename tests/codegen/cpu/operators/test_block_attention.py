from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu import target as tables
from sparsecc.codegen.cpu.operators import block_attention, gather_blocks
from sparsecc.codegen.cpu.operators.block_attention import BlockAttentionSpec
from sparsecc.codegen.cpu.target import Target, parse
from sparsecc.ops.block_attention.torch import reference
from tests.codegen.cpu.kernels.assembly import innermost_loops, loops, registers_of, stores
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, built, call, few, random
from tests.codegen.cpu.kernels.test_every_target import CPUS, NAMES
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
    gathered = gathered_blocks(spec, [q, k, v, where], target)
    mask = masks[0] if masks else np.full((1, 1, 1, 1), np.nan, np.float32)  # which nobody reads
    out = call(
        built(block_attention.build, spec, target),
        [*gathered, where, *tables, mask],
        (spec.batch, spec.heads, spec.tokens, spec.value_dim),
    )
    return torch.from_numpy(out), oracle(spec, places, keep, q, k, v, *masks).float()


def gathered_blocks(spec: BlockAttentionSpec, arrays: list[np.ndarray], target: Target = HERE) -> list[np.ndarray]:
    """q, k and v in blocks, every number of which is written."""
    function = built(gather_blocks.build, spec, target)
    found = []
    for unwritten in (77, -78):
        outs = [tvm_api.tensor(np.full(shape, unwritten, dtype)) for shape, dtype in gather_blocks.outputs(spec, target)]
        function(*(tvm_api.tensor(array) for array in arrays), *outs)
        found.append([out.numpy() for out in outs])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)
    return found[0]


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


PLAIN = replace(HERE, features=())  # without instructions for narrow numbers
NARROWED = [("bfloat16", "bfloat16"), ("int8", "bfloat16"), ("int8", "float32")]
FURTHER = ["last_block_short", "odd_head_dims", "block_beyond_a_vector", "causal", "padding_mask"]
CASES = [
    *((name, HERE, "bfloat16", "bfloat16") for name in SPECS),
    *((name, HERE, "int8", "bfloat16") for name in FURTHER),
    *((name, HERE, "int8", "float32") for name in FURTHER[:2]),
    *((name, target, *dtypes) for name in FURTHER[:3] for target in (NARROW, PLAIN) for dtypes in (NARROWED[0], NARROWED[2])),
]


@pytest.mark.parametrize(
    ("name", "target", "dtype", "values"),
    CASES,
    ids=[f"{name}-{dtype}-{values}-{'plain' if target is PLAIN else target.vector_bits}" for name, target, dtype, values in CASES],
)
def test_narrow_numbers(name: str, target: Target, dtype: str, values: str) -> None:
    """bfloat16 rounds by 1/512 of each factor, int8 by 1/254 of the largest in its block."""
    got, expected = run(*drawn(replace(SPECS[name], dtype=dtype, values=values)), target=target)
    assert (got - expected).abs().max() <= expected.abs().max() * (1 / 128 if dtype == "bfloat16" else 1 / 40)


@pytest.mark.parametrize(
    ("dtype", "values", "most"), [("float32", "float32", 2e-6), ("bfloat16", "bfloat16", 4e-3), ("int8", "bfloat16", 2e-2)]
)
def test_relative_error_of_many_tokens(dtype: str, values: str, most: float) -> None:
    """‖y − y'‖ / ‖y‖ against float64."""
    got, expected = run(*drawn(BlockAttentionSpec(1, 2, 1, 700, 64, 64, 64, 0, 0.125, dtype=dtype, values=values), 0.5))
    error = float((got - expected).norm() / expected.norm())
    assert (most / 20 if dtype != "float32" else 0) < error < most


def test_int8_is_what_the_operator_says() -> None:
    """One scale for each block of queries and of keys, in the order of the head: beside it next to nothing is lost."""
    spec, places, keep = drawn(replace(SPECS["last_block_short"], dtype="int8"))
    rng = np.random.default_rng(3)
    q, k, v = (random(rng, spec.batch, spec.heads, spec.tokens, dim) for dim in (spec.head_dim, spec.head_dim, spec.value_dim))
    where, *tables = block_attention.prepare(places, keep, spec, HERE)
    mask, out = np.zeros((1, 1, 1, 1), np.float32), (spec.batch, spec.heads, spec.tokens, spec.value_dim)
    got = call(built(block_attention.build, spec, HERE), [*gathered_blocks(spec, [q, k, v, where]), where, *tables, mask], out)
    block_map = BlockMap(Grid.line(spec.tokens), spec.block, torch.from_numpy(places).int(), torch.from_numpy(keep))
    rounded = reference(torch.from_numpy(q), torch.from_numpy(k), torch.from_numpy(v), block_map, spec.scale, precision="int8")
    error, lost = (float((torch.from_numpy(got) - other).norm()) for other in (rounded, oracle(spec, places, keep, q, k, v)))
    assert error < lost / 4  # v is rounded there, and is not here


@pytest.mark.parametrize(("dtype", "values"), [("float32", "float32"), *NARROWED])
def test_nan_stays_nan_and_hides_nothing_else(dtype: str, values: str) -> None:
    spec, places, keep = drawn(replace(SPECS["whole_blocks"], dtype=dtype, values=values), 1.0)
    rng = np.random.default_rng(0)
    q, k, v = (random(rng, spec.batch, spec.heads, spec.tokens, spec.head_dim) for _ in range(3))
    q[0, 0, places[0, 3], 1] = np.nan
    where, *tables = block_attention.prepare(places, keep, spec, HERE)
    gathered, mask = gathered_blocks_with_nan(spec, [q, k, v, where]), np.zeros((1, 1, 1, 1), np.float32)
    got = call(built(block_attention.build, spec, HERE), [*gathered, where, *tables, mask], v.shape)
    assert np.isnan(got[0, 0, places[0, 3]]).all()
    assert np.isfinite(got[0, 1]).all()


def gathered_blocks_with_nan(spec: BlockAttentionSpec, arrays: list[np.ndarray]) -> list[np.ndarray]:
    outs = [tvm_api.tensor(np.zeros(shape, dtype)) for shape, dtype in gather_blocks.outputs(spec, HERE)]
    built(gather_blocks.build, spec, HERE)(*(tvm_api.tensor(array) for array in arrays), *outs)
    return [out.numpy() for out in outs]


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
    density = draw(st.sampled_from([0.0, 0.3, 1.0]))
    assert_close(*run(*drawn(spec, density)))
    dtype, values = draw(st.sampled_from(NARROWED))
    got, expected = run(*drawn(replace(spec, dtype=dtype, values=values), density))
    assert (got - expected).abs().max() <= expected.abs().max() / 30


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


@pytest.mark.parametrize(
    ("cpu", "dtype", "values", "scores", "products"),
    [
        ("skylake-avx512", "float32", "float32", "vfmadd231ps", "vfmadd231ps"),
        ("znver4", "bfloat16", "bfloat16", "vdpbf16ps", "vdpbf16ps"),
        ("znver4", "int8", "bfloat16", "vpdpbusd", "vdpbf16ps"),
        ("icelake-server", "int8", "float32", "vpdpbusd", "vfmadd231ps"),
    ],
)
def test_inner_loops_are_multiply_adds_in_registers(cpu: str, dtype: str, values: str, scores: str, products: str) -> None:
    target = parse(f"cpu:{cpu}", 2)
    text = assembly(block_attention.build(replace(BIG, dtype=dtype, values=values), target), target)
    for instruction in {scores, products}:
        hot = [loop for loop in innermost_loops(text, instruction) if loop.count(instruction) >= 16]
        assert len(hot) == (2 if scores == products else 1)
        for loop in hot:
            assert registers_of(loop, instruction) == {"zmm"}
            assert not stores(loop), "accumulators are spilled"
            assert "call" not in loop
    scratch = [loop for loop in loops(text) if products in loop and "AllocWorkspace" in loop]
    assert len(scratch) == 1, "scratch is taken once for a block of queries, not for each block of keys"


@pytest.mark.parametrize("row", tables._DOTS, ids=lambda row: f"{row.needs}-{row.dtype}")
def test_the_instruction_of_every_target_that_has_one(row: tables._Instruction) -> None:
    target = parse(f"cpu:{CPUS[row.needs]}", 2)
    assert target.dot[row.dtype] == row.instruction
    values = "bfloat16" if "bfloat16" in target.dot else "float32"
    small, *_ = drawn(BlockAttentionSpec(1, 1, 1, 64, 32, 32, 16, 0, 0.125, dtype=row.dtype, values=values))
    text = assembly(block_attention.build(small, target), target)
    assert NAMES.get(row.instruction, row.instruction) in text
    assert values == "float32" or target.dot["bfloat16"] in text
