from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import row_block_spmm
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import Epilogue, MatmulSpec, ceil_div
from tests.codegen.cpu.kernels.assembly import hottest_loop, registers_of, stores
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, built, check_matmul, few, random, run_matmul
from tests.codegen.cpu.kernels.specs import SPECS, panels, specs


def sparse_matrix(spec: MatmulSpec, block_rows: int = 1, density: float = 0.3, seed: int = 0) -> np.ndarray:
    """Blocks of `block_rows` × 1 are kept or dropped whole; some block rows lose everything."""
    rng = np.random.default_rng(seed)
    blocks = ceil_div(spec.rows, block_rows)
    keep = rng.random((blocks, spec.depth)) < density
    keep[::5] = False
    return random(rng, spec.rows, spec.depth) * np.repeat(keep, block_rows, axis=0)[: spec.rows]


def first(spec: MatmulSpec, block_rows: int = 1, target=HERE) -> Tiles:
    return row_block_spmm.space(spec, block_rows, 0.3, target)[0]


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    spec, block_rows = SPECS[name], 1 if len(name) % 2 else 4
    check_matmul(row_block_spmm, spec, first(spec, block_rows), sparse_matrix(spec, block_rows))


@pytest.mark.parametrize("name", ["tiles", "taps", "residual_then_activation"])
def test_every_panel_and_group(name: str) -> None:
    spec = SPECS[name]
    for rows, panel, groups in zip((1, 2, 4, 1, 2), panels(spec), (1, 2, 3, 5, 7), strict=False):
        check_matmul(row_block_spmm, spec, replace(first(spec, rows), panel=panel, groups=groups), sparse_matrix(spec, rows))


@pytest.mark.parametrize("name", ["ragged_rows"])
def test_anywhere_in_the_space(name: str) -> None:
    for knobs in Random(0).sample(row_block_spmm.space(SPECS[name], 2, 0.3, HERE), 6):
        check_matmul(row_block_spmm, SPECS[name], knobs, sparse_matrix(SPECS[name], 2))


@pytest.mark.parametrize("name", ["ragged_rows", "taps"])
def test_layers_share_a_kernel_whatever_they_store(name: str) -> None:
    spec = SPECS[name]
    knobs = replace(first(spec, 4), panel=panels(spec)[1], groups=3)
    function = built(row_block_spmm.build, spec, knobs, HERE)
    one = np.zeros((spec.rows, spec.depth), np.float32)
    one[-1, -1] = 2
    matrices = (np.zeros_like(one), one, np.ones_like(one), *(sparse_matrix(spec, 4, density, seed=3) for density in (0.02, 0.9)))
    for matrix in matrices:
        run_matmul(function, row_block_spmm, spec, knobs, matrix)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])  # the epilogue is the dense kernel's, which tests all of them
def test_activations(activation: str) -> None:
    spec = MatmulSpec.linear(12, 20, 1, 32, Epilogue(activation))
    check_matmul(row_block_spmm, spec, first(spec), 4 * sparse_matrix(spec))


def test_without_a_bias() -> None:
    spec = SPECS["ragged_rows"]
    check_matmul(row_block_spmm, spec, first(spec, 4), sparse_matrix(spec), bias=False)


@pytest.mark.parametrize("name", ["ragged_rows", "taps", "one_more_than_a_vector"])
def test_short_vectors(name: str) -> None:
    check_matmul(row_block_spmm, SPECS[name], first(SPECS[name], 2, NARROW), sparse_matrix(SPECS[name]), NARROW)


@few
@given(data=st.data(), spec=specs(HERE.lanes), groups=st.integers(1, 9), block_rows=st.sampled_from([1, 2, 4, 16]))
def test_any_shape(data: st.DataObject, spec: MatmulSpec, groups: int, block_rows: int) -> None:
    knobs = data.draw(st.sampled_from(row_block_spmm.space(spec, block_rows, 0.3, HERE)))
    panel = data.draw(st.sampled_from(panels(spec)))
    matrix = sparse_matrix(spec, block_rows, data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])))
    check_matmul(row_block_spmm, spec, replace(knobs, panel=panel, groups=groups), matrix)


@settings(deadline=None, derandomize=True)
@given(spec=specs(16), block_rows=st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_space(spec: MatmulSpec, block_rows: int) -> None:
    target = parse("cpu:skylake-avx512", 2)
    found = row_block_spmm.space(spec, block_rows, 0.3, target)
    assert found
    for knobs in found:
        assert block_rows % knobs.rows == 0
        assert knobs.tile % target.lanes == 0
        assert knobs.tile <= max(spec.positions, target.lanes)
        assert spec.depth % knobs.panel == 0
        assert 1 <= knobs.groups <= ceil_div(spec.rows, knobs.rows)


@settings(deadline=None, derandomize=True)
@given(spec=specs(16), rows=st.sampled_from([1, 2, 4]), groups=st.integers(1, 6), density=st.floats(0, 1), data=st.data())
def test_stored_once_and_in_order(spec: MatmulSpec, rows: int, groups: int, density: float, data: st.DataObject) -> None:
    """What is stored gives the matrix back, and the groups cover the row blocks once."""
    knobs = Tiles(16, rows, data.draw(st.sampled_from(panels(spec))), groups)
    matrix = sparse_matrix(spec, rows, density)
    values, index, starts, bounds, _ = row_block_spmm.prepare(matrix, None, spec, knobs)
    blocks = ceil_div(spec.rows, rows)
    assert len(values) == len(index) == max(starts[-1, -1], 1)
    assert list(bounds) == sorted(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, blocks, groups + 1)
    again = np.zeros((blocks * rows, spec.depth), np.float32)
    place = {offset: i for i, offset in enumerate(_offsets(spec))}
    for panel in range(spec.depth // knobs.panel):
        for block in range(blocks):
            for at in range(starts[panel, block], starts[panel, block + 1]):
                column = panel * knobs.panel + index[at] if row_block_spmm.index_is_affine(spec) else place[index[at]]
                again[block * rows : (block + 1) * rows, column] += values[at]
    assert np.array_equal(again[: spec.rows], matrix)


def _offsets(spec: MatmulSpec) -> list[int]:
    """Of each input in X; distinct taps of distinct channels may coincide only where the image is shorter than the taps reach."""
    return [tap + channel * spec.channel_stride for tap in spec.taps for channel in range(spec.channels)]


def test_groups_share_the_work() -> None:
    spec = MatmulSpec.linear(64, 32, 1, 16)
    matrix = np.zeros((64, 32), np.float32)
    matrix[:16] = 1
    bounds = row_block_spmm.prepare(matrix, None, spec, Tiles(16, 1, 32, 4))[3]
    work = [(matrix[a:b] != 0).sum() for a, b in pairwise(bounds)]
    assert max(work) <= 0.35 * matrix.sum()


BIG = MatmulSpec.linear(768, 768, 2, 64)
CONV = MatmulSpec(64, 64, 1, 54 * 56, 56 * 58, 56 * 56, taps=(0, 1, 2, 56, 57, 58, 112, 113, 114))


@pytest.mark.parametrize("spec", [BIG, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("block_rows", [1, 4])
@pytest.mark.parametrize("cpu", ["skylake-avx512"])
def test_inner_loop_is_multiply_adds_in_registers(cpu: str, block_rows: int, spec: MatmulSpec) -> None:
    target = parse(f"cpu:{cpu}", 2)
    knobs = first(spec, block_rows, target)
    loop = hottest_loop(assembly(row_block_spmm.build(spec, knobs, target), target), "vfmadd")
    assert loop.count("vfmadd231ps") >= knobs.rows * knobs.tile // target.lanes
    assert registers_of(loop, "vfmadd") == {"zmm"}
    assert "(%rsp" not in loop, "accumulators are spilled"
    assert not stores(loop), "accumulators are spilled"  # not by (%rbp: without a frame pointer it may be any address
    assert "call" not in loop


def test_cross_compiled() -> None:
    haswell, arm = parse("cpu:haswell", 2), parse("cpu:cortex-a76", 2)
    text = assembly(row_block_spmm.build(BIG, first(BIG, 4, haswell), haswell), haswell)
    assert "zmm" not in text
    assert registers_of(hottest_loop(text, "vfmadd"), "vfmadd") == {"ymm"}
    text = assembly(row_block_spmm.build(BIG, first(BIG, 4, arm), arm), arm)
    assert ".4s" in hottest_loop(text, "fmla")


def test_the_default_keeps_x_in_the_l1_and_waiting_sums_in_the_l2() -> None:
    """As long as there is work for it: of few zeros a whole panel of X is worth a longer way."""
    spec = MatmulSpec.linear(2048, 768, 2, 64)
    knobs = row_block_spmm.space(spec, 1, 0.3, (target := parse("cpu:znver4", 2)))[0]
    assert knobs.panel < spec.depth and 4 * knobs.panel * knobs.tile <= target.l1_bytes
    assert 4 * spec.rows * knobs.tile / knobs.groups <= target.l2_bytes / 8
    sparse = row_block_spmm.space(spec, 4, 0.05, target)[0]
    assert (sparse.panel, sparse.groups) == (spec.depth, 1)


def test_waiting_sums_are_divided_no_further_than_there_are_rows() -> None:
    target = replace(parse("cpu:znver4", 2), l2_bytes=1 << 12)
    assert all(knobs.groups <= 8 for knobs in row_block_spmm.space(MatmulSpec.linear(8, 768, 2, 64), 1, 0.9, target))
