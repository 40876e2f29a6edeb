from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import sparse_group_matmul
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.assembly import innermost_loops, loads, stores
from tests.codegen.cpu.kernels.narrow import NARROW_TYPES, PLAIN, WIDENING, check_group_matmul, narrow_weight
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, few, random
from tests.codegen.cpu.kernels.specs import SPECS, panels, specs


def sparse_matrix(spec: MatmulSpec, density: float = 0.3) -> np.ndarray:
    """Single weights are kept, some rows lose everything."""
    rng = np.random.default_rng(0)
    keep = rng.random((spec.rows, spec.depth)) < density
    keep[::5] = False
    return random(rng, spec.rows, spec.depth) * keep


def first(spec: MatmulSpec, target=HERE):
    return sparse_group_matmul.space(spec, 0.5, target)[0]


@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str, dtype: str) -> None:
    spec = replace(SPECS[name], dtype=dtype)
    check_group_matmul(sparse_group_matmul, spec, first(spec), sparse_matrix(spec))


@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("name", ["tiles", "taps", "residual_then_activation"])
def test_panels_and_groups(name: str, dtype: str) -> None:
    spec = replace(SPECS[name], dtype=dtype)
    usable = [panel for panel in panels(spec) if panel % spec.channels == 0 or panel % groups.SIZE[dtype] == 0]
    for panel, parts in zip(usable, (3, 7, 2), strict=False):
        check_group_matmul(sparse_group_matmul, spec, replace(first(spec), panel=panel, groups=parts), sparse_matrix(spec))


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_whatever_is_stored(density: float) -> None:
    spec = replace(SPECS["ragged_rows"], dtype="int8")
    check_group_matmul(sparse_group_matmul, spec, first(spec), sparse_matrix(spec, density))


@pytest.mark.parametrize("target", [PLAIN, WIDENING, NARROW], ids=["plain", "widening", "short_vectors"])
@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_cpus_with_other_instructions(dtype: str, target) -> None:
    spec = replace(SPECS["ragged_rows"], dtype=dtype)
    check_group_matmul(sparse_group_matmul, spec, first(spec, target), sparse_matrix(spec), target)


@few
@given(spec=specs(HERE.lanes), dtype=st.sampled_from(NARROW_TYPES), seed=st.integers(0, 9))
def test_any_shape(spec: MatmulSpec, dtype: str, seed: int) -> None:
    spec = replace(spec, dtype=dtype)
    check_group_matmul(sparse_group_matmul, spec, Random(seed).choice(sparse_group_matmul.space(spec, 0.5, HERE)), sparse_matrix(spec))


def test_dropped_groups_are_not_stored() -> None:
    spec = replace(MatmulSpec.linear(8, 32, 1, 32), dtype="int8")
    matrix = np.zeros((8, 32), np.float32)
    matrix[3, 4:8], matrix[5, 30] = 1, 2
    weight, scales = narrow_weight(matrix, "int8")
    values, places, counts, *_ = sparse_group_matmul.prepare(weight, None, spec, first(spec), scales, HERE)
    assert places.tolist() == [1, 7]
    assert len(values) == 2
    assert counts.sum() == 2


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_zeros_below_zero_are_not_stored(dtype: str) -> None:
    """As a mask leaves them of negative weights."""
    spec = replace(MatmulSpec.linear(8, 32, 1, 32), dtype=dtype)
    weight, scales = narrow_weight(np.full((8, 32), -0.0, np.float32), dtype)
    _, _, counts, *_ = sparse_group_matmul.prepare(weight, None, spec, first(spec), scales, HERE)
    assert not counts.any()


def test_rows_that_use_a_group_share_its_place() -> None:
    spec = replace(MatmulSpec.linear(3, 16, 1, 16), dtype="int8")
    matrix = np.zeros((3, 16), np.int8)
    matrix[:, 8:12] = [[1], [2], [3]]
    matrix[0, 0:4] = matrix[2, 4:8] = 4
    values, places, counts, *_ = sparse_group_matmul.prepare(matrix, None, spec, Tiles(16, 3, 16, 1), np.ones(3, np.float32), HERE)
    one, two, three, four = (value * 0x01010101 for value in (1, 2, 3, 4))
    assert values.tolist() == [four, four, one, two, three]
    assert places.tolist() == [0, 1, 2]
    assert counts.tolist() == [[[1, 0, 0, 1, 0, 0, 1]]]  # row 0, row 2, all three


@pytest.mark.parametrize(("cpu", "dtype", "instruction"), [("icelake-server", "int8", "vpdpbusd"), ("znver4", "bfloat16", "vdpbf16ps")])
def test_one_load_of_inputs_serves_several_rows(cpu: str, dtype: str, instruction: str) -> None:
    """Of the loops, one for each class of rows, all keep sums in registers; the one for all rows loads X once for `rows` products."""
    target = parse(f"cpu:{cpu}", 2)
    spec = replace(MatmulSpec.linear(64, 256, 2, 64), dtype=dtype)
    knobs = first(spec, target)
    found = innermost_loops(assembly(sparse_group_matmul.build(spec, knobs, target), target), instruction)
    assert max(loop.count(instruction) / len(loads(loop)) for loop in found) == knobs.rows
    for loop in found:
        assert not [line for line in loop.splitlines() if "(%rsp" in line and "mm" in line]  # an address may lie there, no sum
        assert not stores(loop)


def test_tiles_are_wide_though_they_overlap() -> None:
    """848 positions are 53 tiles of one vector, with half of the speed, and 13 and a quarter of four."""
    target = parse("cpu:znver4", 2)
    spec = MatmulSpec(64, 64, 1, 848, 912, 848, taps=tuple(range(9)), dtype="int8")
    space = sparse_group_matmul.space(spec, 0.5, target)
    assert space[0].tile == 64
    assert {knobs.tile for knobs in space} == {16, 32, 48, 64, 96, 128}
