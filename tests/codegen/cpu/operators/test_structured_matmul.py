from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsecc.codegen.cpu.operators import structured_matmul
from sparsecc.codegen.cpu.operators.structured_matmul import Blocks, StructuredSpec
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import Target, parse
from sparsecc.codegen.spec import Epilogue
from tests.codegen.cpu.kernels.assembly import hottest_loop, loops, registers_of, stores
from tests.codegen.cpu.kernels.running import ACTIVATIONS, HERE, NARROW, assembly, built, call, few, random
from tests.tolerance import assert_close

V = HERE.lanes
NONE = Epilogue()
SPECS = {
    "one_block": StructuredSpec((Blocks(1, 24, 32),), 2, 2 * V, NONE),
    "one_row": StructuredSpec((Blocks(1, 1, 9),), 2, V, NONE),
    "one_input": StructuredSpec((Blocks(3, 5, 1),), 3, V, NONE),
    "ragged_rows": StructuredSpec((Blocks(4, 17, 6),), 3, 4 * V, NONE),
    "residual": StructuredSpec((Blocks(3, 7, 5),), 1, 2 * V, Epilogue(residual=True)),
    "residual_then_activation": StructuredSpec((Blocks(2, 6, 8),), 2, V, Epilogue("relu", residual=True, residual_first=True)),
    "low_rank": StructuredSpec((Blocks(1, 5, 40), Blocks(1, 33, 5)), 2, 2 * V, NONE),
    "rank_one": StructuredSpec((Blocks(1, 1, 12), Blocks(1, 9, 1)), 2, V, Epilogue("gelu")),
    "monarch": StructuredSpec((Blocks(4, 9, 8), Blocks(3, 11, 12)), 3, 4 * V, Epilogue("silu", residual=True)),
    "tied": StructuredSpec((Blocks(6, 9, 4, tied=3), Blocks(3, 7, 18, tied=3)), 2, V, Epilogue("relu", residual=True)),
    "one_tied": StructuredSpec((Blocks(4, 9, 8, tied=4),), 3, 2 * V, NONE),
    "monarch_residual_first": StructuredSpec(
        (Blocks(2, 8, 5), Blocks(4, 4, 4)), 2, V, Epilogue("tanh", residual=True, residual_first=True)
    ),
}


def first(spec: StructuredSpec, target: Target = HERE) -> tuple[Tiles, ...]:
    return tuple(structured_matmul.space(blocks, spec, target)[0] for blocks in spec.factors)


def check(spec: StructuredSpec, knobs: tuple[Tiles, ...], target: Target = HERE) -> None:
    """The kernel computes its factors, with their outputs in an order of their own, and writes everything."""
    rng = np.random.default_rng(0)
    x, residual = random(rng, *spec.x_shape), random(rng, *spec.y_shape)
    weights = [random(rng, f.stored, f.rows, f.cols) / np.float32(np.sqrt(f.cols)) for f in spec.factors]
    places = [rng.permutation(f.outputs) for f in spec.factors]
    bias = random(rng, spec.factors[-1].outputs)
    biases = [None] * (len(weights) - 1) + [bias]
    parts = zip(weights, places, biases, knobs, strict=True)
    prepared = [array for part in parts for array in structured_matmul.prepare(*part)]
    function = built(structured_matmul.build, spec, knobs, target)
    got = call(function, [x, *prepared, residual if spec.epilogue.residual else prepared[-1]], spec.y_shape)
    assert_close(torch.from_numpy(got), expected(spec, x, weights, places, bias, residual))


def expected(
    spec: StructuredSpec, x: np.ndarray, weights: list[np.ndarray], places: list[np.ndarray], bias: np.ndarray, residual: np.ndarray
) -> Tensor:
    """In float64, with each factor as a matrix."""
    total = torch.from_numpy(x).double()
    for factor, weight, where in zip(spec.factors, weights, places, strict=True):
        blocks = torch.from_numpy(weight).double().repeat_interleave(factor.tied, 0)
        matrix = torch.block_diag(*blocks)[np.argsort(where)]
        total = matrix @ total
    epilogue, other = spec.epilogue, torch.from_numpy(residual).double()
    total = total + torch.from_numpy(bias).double()[:, None]
    total = total + other if epilogue.residual and epilogue.residual_first else total
    total = ACTIVATIONS[epilogue.activation](total) if epilogue.activation else total
    return (total + other if epilogue.residual and not epilogue.residual_first else total).float()


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    check(SPECS[name], first(SPECS[name]))


@pytest.mark.parametrize("rows", [1, 4, 14])
@pytest.mark.parametrize("groups", [1, 5])
def test_rows_that_do_not_divide_a_block_and_groups(rows: int, groups: int) -> None:
    spec = StructuredSpec((Blocks(4, 17, 6),), 3, V, NONE)
    check(spec, (Tiles(V, rows, 6, groups),))


def test_register_tiles_of_two_sizes() -> None:
    spec = SPECS["monarch"]
    check(spec, (replace(first(spec)[0], rows=2), replace(first(spec)[1], rows=6)))


@pytest.mark.parametrize("name", ["ragged_rows", "monarch"])
def test_short_vectors(name: str) -> None:
    check(SPECS[name], first(SPECS[name], NARROW), NARROW)


blocks = st.builds(Blocks, st.integers(1, 4), st.integers(1, 20), st.integers(1, 12))
tiles = st.sampled_from([V, 2 * V, 3 * V, 4 * V])


@few
@given(data=st.data(), tiles=st.integers(1, 3), tile=tiles, two=st.booleans(), residual=st.booleans())
def test_any_shape(data: st.DataObject, tiles: int, tile: int, two: bool, residual: bool) -> None:
    factors = [data.draw(blocks)]
    if two:
        count = data.draw(st.sampled_from([n for n in range(1, 5) if factors[0].outputs % n == 0]))
        factors.append(Blocks(count, data.draw(st.integers(1, 20)), factors[0].outputs // count))
    spec = StructuredSpec(tuple(factors), tiles, tile, Epilogue("relu", residual))
    check(spec, first(spec))


@settings(deadline=None, derandomize=True)
@given(shape=blocks, tiles=st.integers(1, 20), tile=st.sampled_from([16, 32, 48, 64]), threads=st.integers(1, 8))
def test_space_fits_the_registers(shape: Blocks, tiles: int, tile: int, threads: int) -> None:
    target = parse("cpu:skylake-avx512", threads)
    found = structured_matmul.space(shape, StructuredSpec((shape,), tiles, tile, NONE), target)
    assert found
    for knobs in found:
        assert knobs.tile == tile
        assert (knobs.rows + 1) * tile // target.lanes < target.registers
        assert 1 <= knobs.rows <= shape.rows
        assert 1 <= knobs.groups <= shape.count * -(-shape.rows // knobs.rows)


def test_two_factors_are_one_kernel_where_that_fits() -> None:
    factors, target = SPECS["monarch"].factors, replace(HERE, threads=2, l2_bytes=1 << 20)
    assert structured_matmul.fuses(factors, 2, 64, target)
    assert not structured_matmul.fuses(factors, 1, 64, target), "a thread would have nothing to do"
    assert not structured_matmul.fuses(factors[:1], 2, 64, target)
    assert not structured_matmul.fuses((Blocks(1, 4096, 8), Blocks(1, 8, 4096)), 2, 64, target), "the strip would fill the cache"


def test_work_and_strip() -> None:
    spec = StructuredSpec((Blocks(2, 3, 4), Blocks(1, 5, 6)), 7, 16, NONE)
    assert spec.flops == 2 * 7 * 16 * (2 * 3 * 4 + 5 * 6)
    assert spec.strip_bytes == 4 * 16 * 6
    assert (spec.x_shape, spec.y_shape) == ((7, 8, 16), (7, 5, 16))


BIG = {
    "one": StructuredSpec((Blocks(1, 768, 192),), 2, 64, Epilogue("gelu")),
    "low_rank": StructuredSpec((Blocks(1, 192, 768), Blocks(1, 768, 192)), 2, 64, NONE),
    "monarch": StructuredSpec((Blocks(8, 96, 96), Blocks(8, 96, 96)), 2, 64, NONE),
}


@pytest.mark.parametrize("name", BIG)
def test_inner_loops_are_multiply_adds_in_registers(name: str) -> None:
    target, spec = parse("cpu:skylake-avx512", 2), BIG[name]
    knobs = first(spec, target)
    text = assembly(structured_matmul.build(spec, knobs, target), target)
    least = min(k.rows for k in knobs) * spec.tile // target.lanes
    loop = hottest_loop(text, "vfmadd231ps")
    assert loop.count("vfmadd231ps") >= least
    assert registers_of(loop, "vfmadd") == {"zmm"}
    assert not stores(loop), "accumulators are spilled"
    assert "call" not in loop
    scratch = [loop for loop in loops(text) if "AllocWorkspace" in loop]
    assert len(scratch) <= 1, "scratch is taken once for a job"


def test_cross_compiled() -> None:
    haswell, arm = parse("cpu:haswell", 2), parse("cpu:cortex-a76", 2)
    spec = replace(BIG["monarch"], tile=32)
    text = assembly(structured_matmul.build(spec, first(spec, haswell), haswell), haswell)
    assert "zmm" not in text
    assert registers_of(hottest_loop(text, "vfmadd"), "vfmadd") == {"ymm"}
    text = assembly(structured_matmul.build(spec, first(spec, arm), arm), arm)
    assert ".4s" in hottest_loop(text, "fmla")
