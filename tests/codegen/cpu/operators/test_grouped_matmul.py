"""Against numpy: groups that share a matrix and groups that do not, columns that fill no vector, numbers of matrices that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen.cpu.operators import grouped_matmul
from sparsecc.codegen.cpu.operators.grouped_matmul import GroupedSpec
from tests.codegen.cpu.kernels.running import HERE, call, compiled, random


@pytest.mark.parametrize("cols", [3, 40, 75])
def test_each_row_meets_its_matrix(cols: int) -> None:
    spec, rng = GroupedSpec(12, 10, cols, 3), np.random.default_rng(0)
    x, weight = random(rng, 12, 10), random(rng, 3, 10, cols)
    expert = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 1 << 30, -1], np.int32)
    got = call(compiled(grouped_matmul.build(spec, HERE)), [x, weight, expert], (12, cols))
    expected = np.stack([row @ weight[e] if 0 <= e < 3 else np.zeros(cols, np.float32) for row, e in zip(x, expert, strict=True)])
    assert np.allclose(got, expected, atol=1e-5)


def test_groups_divide() -> None:
    assert [GroupedSpec(rows, 1, 1, 1).group for rows in (8, 6, 7)] == [4, 2, 1]
