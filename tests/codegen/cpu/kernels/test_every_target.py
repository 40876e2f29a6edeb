"""Every row of the target's tables on a CPU that has it: what is generated is looked at on any machine, and run where it can run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsecc.codegen.cpu import target as tables
from sparsecc.codegen.cpu.kernels import dense_group_matmul, dense_matmul, nm_group_matvec, nm_matvec
from sparsecc.codegen.cpu.target import Target, parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.few_tokens import n_of_four
from tests.codegen.cpu.kernels.narrow import check_group_matmul
from tests.codegen.cpu.kernels.running import assembly, check_matmul, random

CPUS = {  # feature that a row needs → a CPU for which that row is the best
    "avx512f": "skylake-avx512",
    "avx512bw": "skylake-avx512",
    "avx512vnni": "icelake-server",
    "avx512bf16": "znver4",
    "avxvnni": "alderlake",
    "avx2": "haswell",
    "avx": "sandybridge",
    "ssse3": "core2",
    "sse3": "nocona",
    "": "x86-64",
    "neon": "cortex-a76",
    "dotprod": "cortex-a76",
    "bf16": "neoverse-v1",
}
NAMES = {"pmaddwd": "pmaddwd", "vpermilps": "permil"}  # as the assembler spells them, with or without a "v" before
MANY, FEW = MatmulSpec.linear(48, 64, 2, 32), MatmulSpec.linear(64, 64, 1, 1)


def target_of(row: tables._Instruction | tables._Isa) -> Target:
    return parse(f"cpu:{CPUS[row.needs]}", 2)


@pytest.mark.parametrize("row", (*tables._ISAS, tables._FLOOR), ids=lambda row: row.needs or "floor")
def test_vectors(row: tables._Isa) -> None:
    target = target_of(row)
    assert (target.vector_bits, target.registers) == (row.vector_bits, row.registers)
    [knobs, *_] = dense_matmul.space(MANY, target)
    text = assembly(dense_matmul.build(MANY, knobs, target), target)
    widest = {512: "%zmm", 256: "%ymm", 128: ".4s" if row.needs == "neon" else "%xmm"}
    assert widest[row.vector_bits] in text
    assert not any(name in text for bits, name in widest.items() if bits > row.vector_bits)


@pytest.mark.parametrize("row", tables._DOTS, ids=lambda row: f"{row.needs}-{row.dtype}")
def test_products_of_groups(row: tables._Instruction) -> None:
    target, spec = target_of(row), replace(MANY, dtype=row.dtype)
    assert target.dot[row.dtype] == row.instruction
    text = assembly(dense_group_matmul.build(spec, dense_group_matmul.space(spec, target)[0], target), target)
    assert NAMES.get(row.instruction, row.instruction) in text


@pytest.mark.parametrize("row", tables._SELECTS, ids=lambda row: f"{row.needs}-{row.dtype}")
def test_selections(row: tables._Instruction) -> None:
    target, kernel = target_of(row), nm_matvec if row.dtype == "float32" else nm_group_matvec
    assert target.select[row.dtype] == row.instruction
    spec = replace(FEW, dtype=row.dtype)
    text = assembly(kernel.build(spec, kernel.space(spec, 2, target)[0], target), target)
    assert NAMES.get(row.instruction, row.instruction) in text


@pytest.mark.parametrize("cpu", sorted({*CPUS.values()}))
def test_what_this_machine_can_run_is_right(cpu: str) -> None:
    target = parse(f"cpu:{cpu}", 2)
    if reason := target.cannot_run:
        pytest.skip(f"{cpu}: {reason}")
    rng = np.random.default_rng(0)
    check_matmul(dense_matmul, MANY, dense_matmul.space(MANY, target)[0], random(rng, MANY.rows, MANY.depth), target)
    for dtype in ("int8", "bfloat16"):
        spec = replace(MANY, dtype=dtype)
        knobs = dense_group_matmul.space(spec, target)[0]
        check_group_matmul(dense_group_matmul, spec, knobs, random(rng, spec.rows, spec.depth), target)
    if "int8" in target.select:
        spec = replace(FEW, dtype="int8")
        check_group_matmul(nm_group_matvec, spec, nm_group_matvec.space(spec, 2, target)[0], n_of_four(spec, 2), target)
