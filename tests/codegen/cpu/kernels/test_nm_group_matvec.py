from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import nm_group_matvec
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.assembly import hottest_loop, stores
from tests.codegen.cpu.kernels.few_tokens import SPECS as FLOAT_SPECS
from tests.codegen.cpu.kernels.few_tokens import n_of_four, specs
from tests.codegen.cpu.kernels.narrow import PLAIN, WIDENING, check_group_matmul
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, few

SPECS = {name: replace(spec, dtype="int8") for name, spec in FLOAT_SPECS.items()}


def first(spec: MatmulSpec, keep: int = 2, target=HERE):
    return nm_group_matvec.space(spec, keep, target)[0]


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    check_group_matmul(nm_group_matvec, SPECS[name], first(SPECS[name]), n_of_four(SPECS[name], 2))


@pytest.mark.parametrize("name", ["one_token", "ragged_inputs", "one_input"])
@pytest.mark.parametrize("keep", [1, 3])
def test_other_patterns(keep: int, name: str) -> None:
    check_group_matmul(nm_group_matvec, SPECS[name], first(SPECS[name], keep), n_of_four(SPECS[name], keep))


@pytest.mark.parametrize("name", ["few_tokens", "ragged_rows"])
def test_everywhere_in_the_space(name: str) -> None:
    for knobs in nm_group_matvec.space(SPECS[name], 2, HERE):
        check_group_matmul(nm_group_matvec, SPECS[name], knobs, n_of_four(SPECS[name], 2))


@pytest.mark.parametrize(
    "target", [PLAIN, WIDENING, NARROW, replace(NARROW, features=())], ids=["plain", "widening", "short_vectors", "short_and_plain"]
)
@pytest.mark.parametrize("name", ["few_tokens", "ragged_inputs", "fewer_rows_than_lanes"])
def test_cpus_with_other_instructions(name: str, target) -> None:
    check_group_matmul(nm_group_matvec, SPECS[name], first(SPECS[name], 2, target), n_of_four(SPECS[name], 2), target)


def test_the_largest_numbers_do_not_saturate() -> None:
    spec = replace(MatmulSpec.linear(16, 64, 1, 1), dtype="int8")
    ones = (np.arange(64) % 4 < 2) * np.ones((16, 64), np.float32)
    for target in (HERE, WIDENING, PLAIN):
        check_group_matmul(nm_group_matvec, spec, first(spec, 2, target), ones, target)


@few
@given(spec=specs(), keep=st.sampled_from([1, 2, 3]))
def test_any_shape(spec: MatmulSpec, keep: int) -> None:
    check_group_matmul(nm_group_matvec, replace(spec, dtype="int8"), first(spec, keep), n_of_four(spec, keep))


CPUS = [
    ("icelake-server", "vpdpbusd", "vpshufb", "%zmm"),
    ("skylake-avx512", "vpmaddwd", "vpshufb", "%zmm"),
    ("haswell", "vpmaddwd", "vpshufb", "%ymm"),
    ("cortex-a76", "sdot", "tbl", "v"),
]


@pytest.mark.parametrize(("cpu", "multiplies", "selects", "register"), CPUS)
def test_each_cpu_gets_its_instructions(cpu: str, multiplies: str, selects: str, register: str) -> None:
    target = parse(f"cpu:{cpu}", 2)
    spec = replace(MatmulSpec.linear(512, 512, 1, 1), dtype="int8")
    loop = hottest_loop(assembly(nm_group_matvec.build(spec, first(spec, 2, target), target), target), multiplies)
    for instruction in (multiplies, selects):
        lines = [line for line in loop.splitlines() if instruction in line]
        assert lines
        assert all(register in line for line in lines)
    assert not stores(loop)


@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_sums_stay_in_registers(tokens: int) -> None:
    target, spec = parse("cpu:znver4", 2), replace(MatmulSpec.linear(512, 512, tokens, 1), dtype="int8")
    loop = hottest_loop(assembly(nm_group_matvec.build(spec, first(spec, 2, target), target), target), "vpdpbusd")
    assert loop.count("vpshufb") == loop.count("vpdpbusd")
    assert not stores(loop)
    assert "(%rsp" not in loop
