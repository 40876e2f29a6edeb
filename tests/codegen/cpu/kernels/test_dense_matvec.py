from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from sparsecc.codegen.cpu.kernels import dense_matvec
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from tests.codegen.cpu.kernels.assembly import hottest_loop, registers_of, stores
from tests.codegen.cpu.kernels.few_tokens import SPECS, dense, specs
from tests.codegen.cpu.kernels.running import ACTIVATIONS, HERE, NARROW, assembly, built, call, check_matmul, few, random


def first(spec: MatmulSpec, target=HERE):
    return dense_matvec.space(spec, target)[0]


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    check_matmul(dense_matvec, SPECS[name], first(SPECS[name]), dense(SPECS[name]))


@pytest.mark.parametrize("name", ["few_tokens", "ragged_rows", "many_tokens"])
def test_everywhere_in_the_space(name: str) -> None:
    for knobs in dense_matvec.space(SPECS[name], HERE):
        check_matmul(dense_matvec, SPECS[name], knobs, dense(SPECS[name]))


@pytest.mark.parametrize("name", ["few_tokens", "ragged_rows", "fewer_rows_than_lanes"])
def test_short_vectors(name: str) -> None:
    check_matmul(dense_matvec, SPECS[name], first(SPECS[name], NARROW), dense(SPECS[name]), NARROW)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    spec = MatmulSpec.linear(37, 20, 1, 1, Epilogue(activation))
    check_matmul(dense_matvec, spec, first(spec), dense(spec))


def test_without_a_bias() -> None:
    check_matmul(dense_matvec, SPECS["ragged_rows"], first(SPECS["ragged_rows"]), dense(SPECS["ragged_rows"]), bias=False)


@few
@given(spec=specs())
def test_any_shape(spec: MatmulSpec) -> None:
    check_matmul(dense_matvec, spec, first(spec), dense(spec))


def test_nan_stays_with_its_token() -> None:
    spec = MatmulSpec.linear(37, 20, 3, 1, Epilogue("relu"))
    x = random(np.random.default_rng(0), *spec.x_shape)
    x[1, 7] = np.nan
    weights = dense_matvec.prepare(dense(spec), None, spec, first(spec))
    got = call(built(dense_matvec.build, spec, first(spec), HERE), [x, *weights, weights[-1]], spec.y_shape)
    assert torch.from_numpy(got).isnan().all(dim=1).squeeze().tolist() == [False, True, False]
    assert np.isnan(got).sum() == spec.rows


@pytest.mark.parametrize("tokens", [1, 3, 8, 100])
@pytest.mark.parametrize(("cpu", "register"), [("znver4", "zmm"), ("haswell", "ymm")])
def test_inner_loop_is_multiply_adds_in_registers(cpu: str, register: str, tokens: int) -> None:
    target, spec = parse(f"cpu:{cpu}", 2), MatmulSpec.linear(512, 512, tokens, 1)
    loop = hottest_loop(assembly(dense_matvec.build(spec, first(spec, target), target), target), "vfmadd")
    adds = [line for line in loop.splitlines() if "vfmadd" in line]
    assert registers_of(loop, "vfmadd") == {register}
    assert not stores(loop)
    assert "(%rsp" not in loop
    if tokens == 1:
        assert all("(" in line for line in adds), "weights come straight from memory"
