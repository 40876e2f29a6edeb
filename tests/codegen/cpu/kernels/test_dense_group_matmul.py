from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.kernels import dense_group_matmul
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.assembly import hottest_loop, stores
from tests.codegen.cpu.kernels.narrow import NARROW_TYPES, PLAIN, WIDENING, check_group_matmul
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, few, random
from tests.codegen.cpu.kernels.specs import SPECS, specs


def matrix_of(spec: MatmulSpec) -> np.ndarray:
    return random(np.random.default_rng(0), spec.rows, spec.depth)


def first(spec: MatmulSpec, target=HERE):
    return dense_group_matmul.space(spec, target)[0]


@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("name", SPECS)
def test_first_choice(name: str, dtype: str) -> None:
    spec = replace(SPECS[name], dtype=dtype)
    check_group_matmul(dense_group_matmul, spec, first(spec), matrix_of(spec))


@pytest.mark.parametrize("target", [PLAIN, WIDENING, NARROW], ids=["plain", "widening", "short_vectors"])
@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("name", ["ragged_rows", "taps"])
def test_cpus_with_other_instructions(name: str, dtype: str, target) -> None:
    spec = replace(SPECS[name], dtype=dtype)
    check_group_matmul(dense_group_matmul, spec, first(spec, target), matrix_of(spec), target)


def test_the_largest_numbers_do_not_saturate() -> None:
    spec = replace(MatmulSpec.linear(4, 64, 1, 16), dtype="int8")
    for target in (HERE, WIDENING, PLAIN):
        check_group_matmul(dense_group_matmul, spec, first(spec, target), np.ones((4, 64), np.float32), target)


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_anywhere_in_the_space(dtype: str) -> None:
    spec = replace(SPECS["overlapping_tiles"], dtype=dtype)
    for knobs in Random(0).sample(dense_group_matmul.space(spec, HERE), 3):
        check_group_matmul(dense_group_matmul, spec, knobs, matrix_of(spec))


@few
@given(spec=specs(HERE.lanes), dtype=st.sampled_from(NARROW_TYPES))
def test_any_shape(spec: MatmulSpec, dtype: str) -> None:
    spec = replace(spec, dtype=dtype)
    check_group_matmul(dense_group_matmul, spec, first(spec), matrix_of(spec))


CPUS = [
    ("icelake-server", "int8", "vpdpbusd", "%zmm"),
    ("alderlake", "int8", "vpdpbusd", "%ymm"),
    ("skylake-avx512", "int8", "vpmaddwd", "%zmm"),
    ("haswell", "int8", "vpmaddwd", "%ymm"),
    ("cortex-a76", "int8", "sdot", "v"),
    ("znver4", "bfloat16", "vdpbf16ps", "%zmm"),
    ("neoverse-v1", "bfloat16", "bfdot", "v"),
    ("icelake-server", "bfloat16", "vfmadd", "%zmm"),
    ("haswell", "bfloat16", "vfmadd", "%ymm"),
]


@pytest.mark.parametrize(("cpu", "dtype", "instruction", "register"), CPUS)
def test_each_cpu_gets_its_instruction(cpu: str, dtype: str, instruction: str, register: str) -> None:
    """And sums stay in registers: the innermost loop stores nothing."""
    target = parse(f"cpu:{cpu}", 2)
    spec = replace(MatmulSpec.linear(48, 256, 2, 32), dtype=dtype)
    loop = hottest_loop(assembly(dense_group_matmul.build(spec, first(spec, target), target), target), instruction)
    lines = [line for line in loop.splitlines() if instruction in line]
    assert lines
    assert all(register in line for line in lines)
    if cpu != "haswell":  # 16 registers do not hold what int8 has to be widened through
        assert not stores(loop)


def test_an_instruction_that_a_hypervisor_hides_is_not_used() -> None:
    target = parse("cpu:znver4", 2)
    target = replace(target, features=tuple(name for name in target.features if name not in ("avx512bf16", "avx512vnni")))
    for dtype, instruction in (("bfloat16", "vdpbf16ps"), ("int8", "vpdpbusd")):
        spec = replace(MatmulSpec.linear(48, 256, 2, 32), dtype=dtype)
        assert instruction not in assembly(dense_group_matmul.build(spec, first(spec, target), target), target)


def test_kernels_in_one_module_share_what_is_linked() -> None:
    target = parse("cpu:znver4", 2)
    layers = [replace(MatmulSpec.linear(48, inputs, 2, 32), dtype="bfloat16") for inputs in (64, 256)]
    both = {
        f"f{i}": dense_group_matmul.build(s, first(s, target), target).with_attr("global_symbol", f"f{i}") for i, s in enumerate(layers)
    }
    text = tvm_api.compile_module(tvm_api.IRModule(both), target.llvm).mod.inspect_source("asm")
    assert text.count("vdpbf16ps") >= 48
    assert "sparsecc_bfloat16_dot" not in text
