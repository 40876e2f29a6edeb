"""Every kernel of the family, few tokens as they are and between turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsecc.codegen.calls import recorded
from sparsecc.codegen.cpu.backend import BACKEND
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.kernel import kernels
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.zeros import ZeroProfile
from tests.codegen.cpu.kernels.running import ACTIVATIONS, HERE, random
from tests.codegen.test_zeros import pruned


def structure(kernel: str, matrix: np.ndarray) -> ZeroProfile | None:
    found = kernels("cpu")[kernel].structure
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
        assert structure("nm_matvec", weight) == ZeroProfile(1, kept / 4, 0.0)


@pytest.mark.parametrize("kernel", kernels("cpu"))
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_every_kernel_takes_few_tokens(kernel: str, tokens: int) -> None:
    """Those that know tiles only between turns. All of them compute what the dense matrix gives."""
    known = kernels("cpu")[kernel]
    for dtype in known.dtypes:
        spec = replace(MatmulSpec.linear(37, 50, tokens, 1, Epilogue("relu")), dtype=dtype)
        weight = weight_of(dtype, spec)
        task = Task(kernel, spec, known.structure(weight.matrix, dtype, HERE) if known.structure else None)
        bias = random(np.random.default_rng(2), spec.rows)
        plan = BACKEND.plan(task, task.space(HERE)[0], weight, bias, HERE)
        tape = Tape(HERE, {})
        y = recorded(tape, plan, spec)
        tape.run()
        x = np.random.default_rng(0).standard_normal((tokens, 50, 1), np.float32)[:, :, 0]
        x = groups.bfloat16(x) if dtype == "bfloat16" else x
        matrix = weight.matrix if weight.scales is None else weight.matrix * weight.scales[:, None]
        expected = ACTIVATIONS["relu"](torch.from_numpy(x @ matrix.T.astype(np.float32) + bias)).numpy()
        largest = 0.02 if dtype == "int8" else 1e-5  # of int8 the rounding of x is a part
        assert np.abs(tape.values(y)[:, :, 0] - expected).max() <= largest * np.abs(expected).max()


def weight_of(dtype: str, spec: MatmulSpec) -> Numbers:
    """Half of every four inputs, and some rows without any."""
    matrix = random(np.random.default_rng(1), spec.rows, spec.depth) * (np.arange(spec.depth) % 4 < 2)
    matrix[::5] = 0
    if dtype != "int8":
        return Numbers(groups.bfloat16(matrix) if dtype == "bfloat16" else matrix)
    return Numbers((30 * matrix).clip(-127, 127).astype(np.int8), np.full(spec.rows, 1 / 30, np.float32))
