from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.codegen.cpu.kernels import dense_matmul
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import Epilogue, MatmulSpec, ceil_div
from tests.codegen.cpu.kernels.assembly import hottest_loop, registers_of, stores
from tests.codegen.cpu.kernels.running import ACTIVATIONS, HERE, NARROW, assembly, check_matmul, few, random
from tests.codegen.cpu.kernels.specs import SPECS, panels, specs


def matrix_of(spec: MatmulSpec, seed: int = 0) -> np.ndarray:
    return random(np.random.default_rng(seed), spec.rows, spec.depth)


def first(spec: MatmulSpec, target=HERE) -> Tiles:
    return dense_matmul.space(spec, target)[0]


@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str) -> None:
    check_matmul(dense_matmul, SPECS[name], first(SPECS[name]), matrix_of(SPECS[name]))


@pytest.mark.parametrize("name", ["tiles", "taps", "residual_then_activation"])
def test_every_panel_and_group(name: str) -> None:
    spec = SPECS[name]
    for panel, groups in zip(panels(spec), (1, 2, 3, 5, 7), strict=False):
        check_matmul(dense_matmul, spec, replace(first(spec), panel=panel, groups=groups, rows=4), matrix_of(spec))


@pytest.mark.parametrize("name", ["ragged_rows", "taps", "odd_batch"])
def test_anywhere_in_the_space(name: str) -> None:
    for knobs in Random(0).sample(dense_matmul.space(SPECS[name], HERE), 6):
        check_matmul(dense_matmul, SPECS[name], knobs, matrix_of(SPECS[name]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    spec = MatmulSpec.linear(12, 20, 1, 32, Epilogue(activation))
    check_matmul(dense_matmul, spec, replace(first(spec), rows=4), 2 * matrix_of(spec))


def test_without_a_bias() -> None:
    spec = SPECS["ragged_rows"]
    check_matmul(dense_matmul, spec, first(spec), matrix_of(spec), bias=False)


@pytest.mark.parametrize("name", ["ragged_rows", "taps", "one_more_than_a_vector"])
def test_short_vectors(name: str) -> None:
    check_matmul(dense_matmul, SPECS[name], first(SPECS[name], NARROW), matrix_of(SPECS[name]), NARROW)


@few
@given(data=st.data(), spec=specs(HERE.lanes), groups=st.integers(1, 9))
def test_any_shape(data: st.DataObject, spec: MatmulSpec, groups: int) -> None:
    knobs = data.draw(st.sampled_from(dense_matmul.space(spec, HERE)))
    panel = data.draw(st.sampled_from(panels(spec)))
    check_matmul(dense_matmul, spec, replace(knobs, panel=panel, groups=groups), matrix_of(spec))


@settings(deadline=None, derandomize=True)
@given(spec=specs(16))
def test_space_fits_the_registers(spec: MatmulSpec) -> None:
    target = parse("cpu:skylake-avx512", 2)
    found = dense_matmul.space(spec, target)
    assert found
    assert found == dense_matmul.space(spec, target)
    for knobs in found:
        assert knobs.tile % target.lanes == 0
        assert knobs.tile <= max(spec.positions, target.lanes)
        assert (knobs.rows + 1) * knobs.tile // target.lanes < target.registers
        assert spec.depth % knobs.panel == 0
        assert 1 <= knobs.groups <= ceil_div(spec.rows, knobs.rows)


BIG = MatmulSpec.linear(768, 768, 2, 64)
CONV = MatmulSpec(64, 64, 1, 54 * 56, 56 * 58, 56 * 56, taps=(0, 1, 2, 56, 57, 58, 112, 113, 114))


@pytest.mark.parametrize("spec", [BIG, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("cpu", ["cascadelake", "skylake-avx512"])
def test_inner_loop_is_multiply_adds_in_registers(cpu: str, spec: MatmulSpec) -> None:
    target = parse(f"cpu:{cpu}", 2)
    knobs = first(spec, target)
    loop = hottest_loop(assembly(dense_matmul.build(spec, knobs, target), target), "vfmadd")
    assert loop.count("vfmadd231ps") >= knobs.rows * knobs.tile // target.lanes
    assert registers_of(loop, "vfmadd") == {"zmm"}
    assert "(%rsp" not in loop, "accumulators are spilled"
    assert not stores(loop), "accumulators are spilled"
    assert "call" not in loop


def test_cross_compiled() -> None:
    haswell, arm = parse("cpu:haswell", 2), parse("cpu:cortex-a76", 2)
    text = assembly(dense_matmul.build(BIG, first(BIG, haswell), haswell), haswell)
    assert "zmm" not in text
    assert registers_of(hottest_loop(text, "vfmadd"), "vfmadd") == {"ymm"}
    text = assembly(dense_matmul.build(BIG, first(BIG, arm), arm), arm)
    assert ".4s" in hottest_loop(text, "fmla")
