from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import row_block_matvec
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.assembly import hottest_loop, registers_of, stores
from tests.codegen.cpu.kernels.few_tokens import SPECS, row_blocks, specs
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, built, check_matmul, few, run_matmul


def first(spec: MatmulSpec, block_rows: int = 16, target=HERE):
    return row_block_matvec.space(spec, block_rows, target)[0]


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    block_rows = 16 if len(name) % 2 else 32
    check_matmul(row_block_matvec, SPECS[name], first(SPECS[name], block_rows), row_blocks(SPECS[name], block_rows))


@pytest.mark.parametrize("name", ["few_tokens", "ragged_rows"])
def test_everywhere_in_the_space(name: str) -> None:
    for knobs in row_block_matvec.space(SPECS[name], 64, HERE):
        check_matmul(row_block_matvec, SPECS[name], knobs, row_blocks(SPECS[name], 64))


@pytest.mark.parametrize("name", ["few_tokens", "ragged_rows", "fewer_rows_than_lanes"])
def test_short_vectors(name: str) -> None:
    check_matmul(row_block_matvec, SPECS[name], first(SPECS[name], 4, NARROW), row_blocks(SPECS[name], 4), NARROW)


def test_layers_share_a_kernel_whatever_they_store() -> None:
    """Any number of blocks in a row, also where it is no multiple of those that are summed apart."""
    spec = SPECS["ragged_rows"]
    function = built(row_block_matvec.build, spec, first(spec), HERE)
    one = np.zeros((spec.rows, spec.depth), np.float32)
    one[-1, -1] = 2
    for matrix in (np.zeros_like(one), one, np.ones_like(one), *(row_blocks(spec, 16, density) for density in (0.02, 0.3, 0.9))):
        run_matmul(function, row_block_matvec, spec, first(spec), matrix)


def test_blocks_that_no_vector_fits_have_no_knobs() -> None:
    assert row_block_matvec.space(SPECS["one_token"], 4, parse("cpu:znver4", 2)) == []


@few
@given(spec=specs(), block_rows=st.sampled_from([16, 32, 64]), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_any_shape(spec: MatmulSpec, block_rows: int, density: float) -> None:
    check_matmul(row_block_matvec, spec, first(spec, block_rows), row_blocks(spec, block_rows, density))


def test_more_inputs_than_16_bits_tell_apart() -> None:
    spec = MatmulSpec.linear(16, 70000, 1, 1)
    check_matmul(row_block_matvec, spec, first(spec), row_blocks(spec, 16, 0.01))


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize(("cpu", "register"), [("znver4", "zmm"), ("haswell", "ymm")])
def test_inner_loop_is_multiply_adds_in_registers(cpu: str, register: str, tokens: int) -> None:
    target, spec = parse(f"cpu:{cpu}", 2), MatmulSpec.linear(512, 512, tokens, 1)
    loop = hottest_loop(assembly(row_block_matvec.build(spec, first(spec, 16, target), target), target), "vfmadd")
    adds = [line for line in loop.splitlines() if "vfmadd" in line]
    assert registers_of(loop, "vfmadd") == {register}
    assert not stores(loop)
    assert "(%rsp" not in loop
    if tokens == 1:
        assert all("(" in line for line in adds), "weights come straight from memory"
