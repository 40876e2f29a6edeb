from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen.cpu.pieces import nm_select
from tests.codegen.cpu.kernels.few_tokens import SPECS, n_of_four


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("name", ["one_token", "ragged_inputs", "one_input"])
def test_what_is_stored_gives_the_matrix_back(name: str, keep: int) -> None:
    matrix = n_of_four(SPECS[name], keep)
    values, places = nm_select.compact(matrix, keep)
    again = np.zeros((len(matrix), values.shape[1] // keep * 4), matrix.dtype)
    np.put_along_axis(again, np.arange(values.shape[1]) // keep * 4 + places.astype(int), values, axis=1)
    assert np.array_equal(again[:, : matrix.shape[1]], matrix)
    assert not again[:, matrix.shape[1] :].any()


def test_kept() -> None:
    matrix = np.zeros((2, 9), np.float32)
    assert nm_select.kept(matrix) == 1
    matrix[1, [0, 3, 4, 8]] = 1
    assert nm_select.kept(matrix) == 2
    matrix[0, 4:8] = 1
    assert nm_select.kept(matrix) == 4


def test_words() -> None:
    places = np.array([[1, 2, 3, 0, 2, *[0] * 13, 3]], np.uint8)
    assert nm_select.words(places, "float32").tolist() == [[0b10_00_11_10_01, 0b11_00_00]]
    assert nm_select.words(places, "int8").tolist() == [[0b11_00000010_00001001 | 0 << 24, 0b11 << 16]]
