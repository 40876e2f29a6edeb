from __future__ import annotations

from dataclasses import replace

from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.zeros import ZeroProfile
from tests.codegen.cpu.kernels.running import HERE


def test_a_task_says_what_it_is() -> None:
    task = Task("row_block_spmm", MatmulSpec(8, 3, 2, 20, 30, 25, taps=(0, 1)), ZeroProfile(4, 0.3, 0.0))
    assert str(task) == "row_block_spmm 8×3 × 2 taps on 2×20 70% zeros by 4x1"


def test_bytes_of_weights() -> None:
    spec = MatmulSpec.linear(32, 64, 1, 1)
    assert Task("dense_matvec", spec).weight_bytes(HERE) == 32 * 64 * 4
    assert Task("nm_matvec", spec, ZeroProfile(1, 0.5, 0.0)).weight_bytes(HERE) == 32 * 64 * 2.125
    assert Task("row_block_matvec", spec, ZeroProfile(16, 0.5, 0.0)).weight_bytes(HERE) == 32 * 64 * 2.0625
    narrow = replace(spec, dtype="int8")
    assert Task("nm_group_matvec", narrow, ZeroProfile(1, 0.5, 0.0)).weight_bytes(HERE) == 32 * 64 * 0.625
    assert Task("sparse_group_matmul", narrow, ZeroProfile(1, 0.5, 0.0)).weight_bytes(HERE) == 32 * 64 * 0.75
