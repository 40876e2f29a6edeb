from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import dense_group_matvec
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.assembly import hottest_loop, stores
from tests.codegen.cpu.kernels.few_tokens import SPECS, dense, specs
from tests.codegen.cpu.kernels.narrow import NARROW_TYPES, PLAIN, WIDENING, check_group_matmul
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, few


def first(spec: MatmulSpec, target=HERE):
    return dense_group_matvec.space(spec, target)[0]


@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str, dtype: str) -> None:
    spec = replace(SPECS[name], dtype=dtype)
    check_group_matmul(dense_group_matvec, spec, first(spec), dense(spec))


def test_everywhere_in_the_space() -> None:
    spec = replace(SPECS["ragged_rows"], dtype="int8")
    for knobs in dense_group_matvec.space(spec, HERE):
        check_group_matmul(dense_group_matvec, spec, knobs, dense(spec))


@pytest.mark.parametrize("target", [PLAIN, WIDENING, NARROW], ids=["plain", "widening", "short_vectors"])
@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("name", ["few_tokens", "fewer_rows_than_lanes"])
def test_cpus_with_other_instructions(name: str, dtype: str, target) -> None:
    spec = replace(SPECS[name], dtype=dtype)
    check_group_matmul(dense_group_matvec, spec, first(spec, target), dense(spec), target)


def test_the_largest_numbers_do_not_saturate() -> None:
    spec = replace(MatmulSpec.linear(16, 64, 1, 1), dtype="int8")
    for target in (HERE, WIDENING, PLAIN):
        check_group_matmul(dense_group_matvec, spec, first(spec, target), np.ones((16, 64), np.float32), target)


@few
@given(spec=specs(), dtype=st.sampled_from(NARROW_TYPES))
def test_any_shape(spec: MatmulSpec, dtype: str) -> None:
    check_group_matmul(dense_group_matvec, replace(spec, dtype=dtype), first(spec), dense(spec))


@pytest.mark.parametrize(("dtype", "multiplies"), [("int8", "vpdpbusd"), ("bfloat16", "vdpbf16ps")])
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_sums_stay_in_registers(tokens: int, dtype: str, multiplies: str) -> None:
    target, spec = parse("cpu:znver4", 2), replace(MatmulSpec.linear(512, 512, tokens, 1), dtype=dtype)
    loop = hottest_loop(assembly(dense_group_matvec.build(spec, first(spec, target), target), target), multiplies)
    assert not stores(loop)
    assert "(%rsp" not in loop
