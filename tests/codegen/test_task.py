from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen import task
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.task import KERNELS, Structure, Task, common_rows, version
from tests.codegen.cpu.kernels.running import ACTIVATIONS, HERE, random


@given(rows=st.integers(1, 6), cols=st.integers(1, 9), height=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_blocks_are_found(rows: int, cols: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keep = rng.random((rows, cols)) < 0.5
    keep[0, 0] = True
    found = common_rows(np.repeat(keep, height, axis=0) * rng.uniform(1, 2, (rows * height, cols)).astype(np.float32))
    assert found % height == 0


def test_common_rows() -> None:
    assert common_rows(np.eye(8, dtype=np.float32)) == 1
    assert common_rows(np.ones((8, 3), np.float32)) == 4
    assert common_rows(np.ones((6, 3), np.float32)) == 2
    assert common_rows(np.ones((7, 3), np.float32)) == 1
    assert common_rows(np.ones((96, 3), np.float32), [64, 32, 16]) == 32


def test_a_few_zeros_within_blocks_are_worth_it() -> None:
    """Up to a tenth more is stored than there are nonzeros."""
    matrix = np.ones((4, 100), np.float32)
    matrix[0, :30] = 0
    assert common_rows(matrix) == 4
    matrix[0, :50] = 0
    assert common_rows(matrix) != 4


def pruned(rows: int, cols: int, keep: float, seed: int, height: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flat = np.zeros(rows // height * cols, bool)
    flat[rng.permutation(flat.size)[: round(keep * flat.size)]] = True
    return np.repeat(flat.reshape(-1, cols), height, axis=0) * rng.uniform(1, 2, (rows, cols)).astype(np.float32)


def test_layers_pruned_alike_are_one_case() -> None:
    first, second = (Structure.of(pruned(64, 96, 0.3, seed, height=4)) for seed in (0, 1))
    assert first == second == Structure(4, 0.3, 0.25)


def test_density_block_rows_and_unevenness_are_told_apart() -> None:
    base = Structure.of(pruned(64, 96, 0.3, 0))
    assert base.block_rows == 1
    assert Structure.of(pruned(64, 96, 0.2, 0)) != base
    lopsided = np.zeros((64, 96), np.float32)
    lopsided[:20, :92] = 1
    assert Structure.of(lopsided).unevenness > 1
    assert Structure.of(np.zeros((3, 5), np.float32)) == Structure(1, 0.0, 0.0)


def test_a_task_says_what_it_is() -> None:
    task = Task("row_block_spmm", MatmulSpec(8, 3, 2, 20, 30, 25, taps=(0, 1)), Structure(4, 0.3, 0.0))
    assert str(task) == "row_block_spmm 8×3 × 2 taps on 2×20 70% zeros by 4x1"


def structure(kernel: str, matrix: np.ndarray) -> Structure | None:
    found = KERNELS[kernel].structure
    assert found is not None
    return found(matrix, "float32", HERE)


def test_blocks_of_whole_vectors_for_few_tokens() -> None:
    """As high as the zeros allow; blocks of one vector are there whatever the zeros are, more of them then."""
    lanes = HERE.lanes
    for vectors in (1, 2, 4):
        found = structure("row_block_matvec", pruned(8 * lanes, 50, 0.5, 0, height=vectors * lanes))
        assert found is not None and (found.block_rows, found.density) == (vectors * lanes, 0.5)
    found = structure("row_block_matvec", pruned(2 * lanes, 50, 0.1, 0))
    assert found is not None and found.block_rows == lanes and found.density > 0.5
    assert structure("row_block_matvec", np.eye(lanes + 1, 7, dtype=np.float32)) is not None, "rows may be no multiple of the lanes"


def test_n_of_four_is_found_whatever_the_format_calls_it() -> None:
    weight = np.ones((4, 12), np.float32)
    assert structure("nm_matvec", weight) is None
    for kept in (3, 2, 1):
        weight[:, kept::4] = 0
        assert structure("nm_matvec", weight) == Structure(1, kept / 4, 0.0)


def test_bytes_of_weights() -> None:
    spec = MatmulSpec.linear(32, 64, 1, 1)
    assert Task("dense_matvec", spec).weight_bytes == 32 * 64 * 4
    assert Task("nm_matvec", spec, Structure(1, 0.5, 0.0)).weight_bytes == 32 * 64 * 2.125
    assert Task("row_block_matvec", spec, Structure(16, 0.5, 0.0)).weight_bytes == 32 * 64 * 2.0625
    narrow = replace(spec, dtype="int8")
    assert Task("nm_group_matvec", narrow, Structure(1, 0.5, 0.0)).weight_bytes == 32 * 64 * 0.625
    assert Task("sparse_group_matmul", narrow, Structure(1, 0.5, 0.0)).weight_bytes == 32 * 64 * 0.75


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_every_kernel_takes_few_tokens(kernel: str, tokens: int) -> None:
    """Those that know tiles only between turns. All of them compute what the dense matrix gives."""
    known = KERNELS[kernel]
    for dtype in known.dtypes:
        spec = replace(MatmulSpec.linear(37, 50, tokens, 1, Epilogue("relu")), dtype=dtype)
        weight = weight_of(dtype, spec)
        task = Task(kernel, spec, known.structure(weight.matrix, dtype, HERE) if known.structure else None)
        bias = random(np.random.default_rng(2), spec.rows)
        plan = task.plan(task.space(HERE)[0], weight, bias, HERE)
        run, y = plan.call(plan.compile(spec), spec)
        run()
        x = np.random.default_rng(0).standard_normal((tokens, 50, 1), np.float32)[:, :, 0]
        x = groups.bfloat16(x) if dtype == "bfloat16" else x
        matrix = weight.matrix if weight.scales is None else weight.matrix * weight.scales[:, None]
        expected = ACTIVATIONS["relu"](torch.from_numpy(x @ matrix.T.astype(np.float32) + bias)).numpy()
        largest = 0.02 if dtype == "int8" else 1e-5  # of int8 the rounding of x is a part
        assert np.abs(y.numpy()[:, :, 0] - expected).max() <= largest * np.abs(expected).max()


def weight_of(dtype: str, spec: MatmulSpec) -> Numbers:
    """Half of every four inputs, and some rows without any."""
    matrix = random(np.random.default_rng(1), spec.rows, spec.depth) * (np.arange(spec.depth) % 4 < 2)
    matrix[::5] = 0
    if dtype != "int8":
        return Numbers(groups.bfloat16(matrix) if dtype == "bfloat16" else matrix)
    return Numbers((30 * matrix).clip(-127, 127).astype(np.int8), np.full(spec.rows, 1 / 30, np.float32))


def test_a_version_is_of_the_code_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(source: str) -> str:
        kernel = ModuleType("kernel")
        monkeypatch.setattr(task.importlib, "import_module", lambda name: kernel)
        monkeypatch.setattr(task.inspect, "getsource", lambda module: source if module is kernel else "")
        version.cache_clear()
        return version("kernel")

    code = "def build(x):\n    return x + 1\n"
    assert of(code) == of(f"# a comment\n{code}\n\ndef space(spec):\n    return [2]\n")
    assert of(code) != of(code.replace("1", "2"))
    version.cache_clear()
