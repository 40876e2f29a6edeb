from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.zeros import ZeroProfile, common_rows


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
    first, second = (ZeroProfile.of(pruned(64, 96, 0.3, seed, height=4)) for seed in (0, 1))
    assert first == second == ZeroProfile(4, 0.3, 0.25)


def test_density_block_rows_and_unevenness_are_told_apart() -> None:
    base = ZeroProfile.of(pruned(64, 96, 0.3, 0))
    assert base.block_rows == 1
    assert ZeroProfile.of(pruned(64, 96, 0.2, 0)) != base
    lopsided = np.zeros((64, 96), np.float32)
    lopsided[:20, :92] = 1
    assert ZeroProfile.of(lopsided).unevenness > 1
    assert ZeroProfile.of(np.zeros((3, 5), np.float32)) == ZeroProfile(1, 0.0, 0.0)
