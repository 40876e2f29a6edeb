from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import nm_matvec
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.assembly import hottest_loop, registers_of, stores
from tests.codegen.cpu.kernels.few_tokens import SPECS, n_of_four, specs
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, check_matmul, few

PLAIN = replace(HERE, features=())  # a CPU with no instruction that selects


def first(spec: MatmulSpec, keep: int = 2, target=HERE):
    return nm_matvec.space(spec, keep, target)[0]


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    check_matmul(nm_matvec, SPECS[name], first(SPECS[name]), n_of_four(SPECS[name], 2))


@pytest.mark.parametrize("name", ["one_token", "ragged_inputs", "one_input"])
@pytest.mark.parametrize("keep", [1, 3])
def test_other_patterns(keep: int, name: str) -> None:
    check_matmul(nm_matvec, SPECS[name], first(SPECS[name], keep), n_of_four(SPECS[name], keep))


@pytest.mark.parametrize("name", ["few_tokens", "ragged_rows"])
def test_everywhere_in_the_space(name: str) -> None:
    for knobs in nm_matvec.space(SPECS[name], 2, HERE):
        check_matmul(nm_matvec, SPECS[name], knobs, n_of_four(SPECS[name], 2))


@pytest.mark.parametrize("target", [PLAIN, NARROW, replace(NARROW, features=())], ids=["plain", "short_vectors", "short_and_plain"])
@pytest.mark.parametrize("name", ["few_tokens", "ragged_inputs", "fewer_rows_than_lanes"])
def test_cpus_with_other_instructions(name: str, target) -> None:
    check_matmul(nm_matvec, SPECS[name], first(SPECS[name], 2, target), n_of_four(SPECS[name], 2), target)


@few
@given(spec=specs(), keep=st.sampled_from([1, 2, 3]))
def test_any_shape(spec: MatmulSpec, keep: int) -> None:
    check_matmul(nm_matvec, spec, first(spec, keep), n_of_four(spec, keep))


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize(("cpu", "register"), [("znver4", "zmm"), ("haswell", "ymm")])
def test_inner_loop_selects_in_registers(cpu: str, register: str, tokens: int) -> None:
    target, spec = parse(f"cpu:{cpu}", 2), MatmulSpec.linear(512, 512, tokens, 1)
    loop = hottest_loop(assembly(nm_matvec.build(spec, first(spec, 2, target), target), target), "vfmadd")
    adds = [line for line in loop.splitlines() if "vfmadd" in line]
    assert registers_of(loop, "vfmadd") == {register}
    assert registers_of(loop, "vpermilps") == {register}
    assert loop.count("vpermilps") == len(adds)
    assert not stores(loop)
    assert "(%rsp" not in loop
    if tokens == 1:
        assert all("(" in line for line in adds), "weights come straight from memory"


def test_cross_compiled() -> None:
    arm = parse("cpu:cortex-a76", 2)
    spec = MatmulSpec.linear(512, 512, 1, 1)
    assert ".4s" in hottest_loop(assembly(nm_matvec.build(spec, first(spec, 2, arm), arm), arm), "fmla")
