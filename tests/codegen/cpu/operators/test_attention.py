from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import attention, pair_tokens
from sparsecc.codegen.cpu.operators.attention import AttentionSpec
from sparsecc.codegen.cpu.operators.pair_tokens import PairSpec
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target, parse
from sparsecc.codegen.spec import ceil_div
from tests.codegen.cpu.kernels.assembly import hottest_loop, registers_of, stores
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, built, call, few, random
from tests.tolerance import assert_close

V = HERE.lanes
SPECS = {
    "plain": AttentionSpec(1, 4, 4, 64, 64, 32, 32, 4 * V, 4 * V, 0.2),
    "one_token": AttentionSpec(1, 2, 2, 1, 1, 8, 8, V, V, 0.3),
    "one_query_many_keys": AttentionSpec(2, 2, 2, 1, 70, 16, 16, V, 2 * V, 0.3),
    "keys_fill_no_tile": AttentionSpec(1, 3, 3, 33, 37, 16, 24, 3 * V, V, 0.3),
    "odd_head_dims": AttentionSpec(2, 3, 3, 20, 20, 5, 7, 2 * V, 2 * V, 0.5),
    "causal": AttentionSpec(2, 4, 4, 40, 40, 24, 24, V, 2 * V, 0.2, causal=True),
    "causal_fewer_keys": AttentionSpec(1, 2, 2, 40, 17, 8, 8, V, V, 0.2, causal=True),
    "causal_more_keys": AttentionSpec(1, 2, 2, 17, 40, 8, 8, V, V, 0.2, causal=True),
    "grouped_heads": AttentionSpec(2, 6, 2, 20, 30, 16, 8, 2 * V, V, 0.3),
    "one_kv_head_causal": AttentionSpec(1, 4, 1, 33, 33, 16, 16, 2 * V, 2 * V, 0.3, causal=True),
    "mask_of_keys": AttentionSpec(2, 3, 3, 33, 33, 16, 16, V, V, 0.3, mask=(2, 1, 1, 33)),
    "mask_of_heads": AttentionSpec(2, 3, 3, 20, 33, 16, 16, 2 * V, V, 0.3, mask=(1, 3, 20, 33)),
    "mask_of_all": AttentionSpec(2, 3, 3, 20, 33, 16, 16, 2 * V, V, 0.3, mask=(2, 3, 20, 33)),
    "mask_and_causal": AttentionSpec(2, 4, 2, 33, 33, 8, 8, 3 * V, 3 * V, 0.3, causal=True, mask=(2, 1, 1, 33)),
}


def tiled(x: np.ndarray, tile: int) -> np.ndarray:
    """[batch, heads, tokens, dim] → [tiles, heads·dim, tile]; what pads is NaN, for nobody may read it."""
    batch, heads, tokens, dim = x.shape
    padded = np.full((batch, ceil_div(tokens, tile) * tile, heads * dim), np.nan, np.float32)
    padded[:, :tokens] = x.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * dim)
    return np.ascontiguousarray(padded.reshape(-1, tile, heads * dim).transpose(0, 2, 1))


def run(spec: AttentionSpec, mask: np.ndarray | None = None, target: Target = HERE) -> tuple[Tensor, Tensor]:
    """(result, oracle), both [batch, heads, queries, value_dim]."""
    rng = np.random.default_rng(0)
    q = random(rng, spec.batch, spec.heads, spec.queries, spec.head_dim)
    k = random(rng, spec.batch, spec.kv_heads, spec.keys, spec.head_dim)
    v = random(rng, spec.batch, spec.kv_heads, spec.keys, spec.value_dim)
    mask = random(rng, *(spec.mask or (1, 1, 1, 1))) if mask is None else mask
    inputs = [tiled(q, spec.tile), tiled(k, spec.key_tile), tiled(v, spec.key_tile)]
    if spec.dtype == "bfloat16":
        q, k, v = (groups.bfloat16(x) for x in (q, k, v))
        inputs = [*(groups.group_array(x, "bfloat16", target)[0] for x in inputs[:2]), pairs(inputs[2], spec, target)]
    shape = (spec.batch * spec.padded_queries // spec.tile, spec.heads * spec.value_dim, spec.tile)
    function = built(attention.build, spec, target)
    out = call(function, [*inputs, mask], shape)
    out = out.transpose(0, 2, 1).reshape(spec.batch, spec.padded_queries, spec.heads, spec.value_dim)[:, : spec.queries]
    return torch.from_numpy(np.ascontiguousarray(out.transpose(0, 2, 1, 3))), oracle(spec, q, k, v, mask).float()


def pairs(v: np.ndarray, spec: AttentionSpec, target: Target) -> np.ndarray:
    pair = PairSpec(spec.batch, spec.keys, v.shape[1], spec.key_tile)
    out = tvm_api.tensor(np.zeros(pair.y_shape, np.int32))
    built(pair_tokens.build, pair, target)(tvm_api.tensor(v), out)
    return out.numpy()


def oracle(spec: AttentionSpec, *arrays: np.ndarray) -> Tensor:
    q, k, v, mask = (torch.from_numpy(array).double() for array in arrays)
    k, v = (x.repeat_interleave(spec.heads // spec.kv_heads, 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * spec.scale
    scores = scores + mask if spec.mask is not None else scores
    if spec.causal:
        scores = scores.masked_fill(~torch.ones(spec.queries, spec.keys, dtype=torch.bool).tril(), -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("name", SPECS)
def test_against_torch(name: str) -> None:
    assert_close(*run(SPECS[name]))


@pytest.mark.parametrize("name", ["grouped_heads", "causal", "mask_of_keys"])
def test_short_vectors(name: str) -> None:
    spec = replace(SPECS[name], tile=2 * NARROW.lanes, key_tile=NARROW.lanes)
    assert_close(*run(spec, target=NARROW))


EVEN = [name for name in SPECS if name != "odd_head_dims"]
PLAIN = replace(HERE, features=())
FURTHER = ["plain", "keys_fill_no_tile", "one_kv_head_causal", "mask_of_keys"]  # without instructions for bfloat16 only products differ


@pytest.mark.parametrize(
    ("target", "name"),
    [*((target, name) for target in (HERE, NARROW) for name in EVEN), *((PLAIN, name) for name in FURTHER)],
    ids=[*EVEN, *(f"{name}, short vectors" for name in EVEN), *(f"{name}, plain" for name in FURTHER)],
)
def test_bfloat16(name: str, target: Target) -> None:
    """What the softmax gives is rounded to 8 bits: by 1/512 of each weight, and of the largest value at most."""
    spec = replace(SPECS[name], dtype="bfloat16")
    got, expected = run(spec if target is not NARROW else replace(spec, tile=2 * NARROW.lanes, key_tile=NARROW.lanes), target=target)
    assert (got - expected).abs().max() <= expected.abs().max() / 256


@few
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    size, draw = st.integers(1, 40), data.draw
    batch, heads, kv_heads = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, keys, dims, tiles = (
        draw(size),
        draw(size),
        (draw(size), draw(size)),
        (V * draw(st.integers(1, 4)), V * draw(st.integers(1, 4))),
    )
    full = (batch, heads * kv_heads, queries)
    mask = (*(draw(st.sampled_from([1, extent])) for extent in full), keys) if draw(st.booleans()) else None
    spec = AttentionSpec(batch, heads * kv_heads, kv_heads, queries, keys, *dims, *tiles, 0.3, draw(st.booleans()), mask)
    assert_close(*run(spec))


def hides_nothing(spec: AttentionSpec) -> np.ndarray:
    """A mask for it to write into."""
    assert spec.mask is not None
    return np.zeros(spec.mask, np.float32)


@pytest.mark.parametrize("low", [-1e4, -1e30, np.finfo(np.float32).min, -np.inf])
def test_masked_keys_do_not_count(low: float) -> None:
    spec = SPECS["mask_of_keys"]
    mask = hides_nothing(spec)
    mask[0, ..., 20:] = mask[1, ..., :5] = low
    assert_close(*run(spec, mask))


def test_a_query_that_sees_no_key() -> None:
    """The lowest finite score everywhere is a mean over the keys, as in softmax; -inf everywhere gives zeros, as in torch."""
    spec = SPECS["mask_of_keys"]
    mask = hides_nothing(spec)
    mask[0] = np.finfo(np.float32).min
    got, expected = run(spec, mask)
    assert_close(got, expected)
    mask[0] = -np.inf
    got, expected = run(spec, mask)
    assert (got[0] == 0).all()
    assert_close(got[1], expected[1])


@pytest.mark.parametrize("low", [np.finfo(np.float32).min, -np.inf])
def test_a_query_does_not_see_the_future_when_all_else_is_masked(low: float) -> None:
    spec = replace(SPECS["mask_and_causal"], mask=(1, 1, 33, 33))
    mask = hides_nothing(spec)
    mask[..., 4, :5] = low
    got, expected = run(spec, mask)
    assert_close(got, expected.nan_to_num(0.0))


def test_large_scores_do_not_overflow() -> None:
    got, _ = run(replace(SPECS["plain"], scale=300.0))
    assert got.isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_a_score_without_a_value_gives_none(dtype: str, nan: float) -> None:
    spec = replace(SPECS["plain"], mask=(1, 1, SPECS["plain"].queries, SPECS["plain"].keys), dtype=dtype)
    mask = hides_nothing(spec)
    mask[..., 4, 2], mask[..., 6, 3] = nan, nan
    got, _ = run(spec, mask)
    assert got[:, :, [4, 6]].isnan().all()
    assert got[:, :, [5, 7]].isfinite().all()


def test_bfloat16_inner_loops_are_multiply_adds_in_registers() -> None:
    target = parse("cpu:znver4", 2)
    spec = AttentionSpec(1, 12, 12, 128, 128, 64, 64, 64, 64, 0.125, dtype="bfloat16")
    loop = hottest_loop(assembly(attention.build(spec, target), target), "vdpbf16ps")
    assert loop.count("vdpbf16ps") >= 16
    assert "(%rsp" not in loop
    assert not stores(loop)


def test_inner_loops_are_multiply_adds_in_registers() -> None:
    target = parse("cpu:skylake-avx512", 2)
    text = assembly(attention.build(AttentionSpec(1, 12, 12, 128, 128, 64, 64, 64, 64, 0.125), target), target)
    loop = hottest_loop(text, "vfmadd231ps")
    assert loop.count("vfmadd231ps") >= 16
    assert registers_of(loop, "vfmadd") == {"zmm"}
    assert "(%rsp" not in loop
    assert "call" not in loop
