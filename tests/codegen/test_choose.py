"""What the chooser does with measurements; the measurements themselves are made up here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsecc.codegen import choose
from sparsecc.codegen.choose import common_rows
from sparsecc.timing import Timing
from tests.codegen.whole import check, fixed, packed, random

X = random(16, 32)


def graph(sparsity: float = 0.75) -> Any:
    torch.manual_seed(0)
    return packed(fixed(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32)), X), "4x1", sparsity)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the sparse and the dense kernel; each still runs once."""
    seconds = [1.0, 1.0]

    def fake(calls: Mapping[str, Any], **_: Any) -> dict[str, Timing]:
        for call in calls.values():
            call()
        return {name: Timing(name, (taken,) * 3) for name, taken in zip(calls, seconds, strict=True)}

    monkeypatch.setattr(choose, "interleave", fake)
    return seconds


def test_the_faster_one_stays(times: list[float]) -> None:
    times[:] = [1e-6, 3e-6]
    first, second = check(graph(), [X], measure=True)
    assert (first.site, second.site) == ("0", "2")
    for choice in (first, second):
        assert choice.decision == "sparse"
        assert choice.kernel.startswith("row_block_spmm 4x")
        assert (choice.measured_us, choice.dense_us) == (pytest.approx(1), pytest.approx(3))
        assert choice.predicted_us is not None
        assert 0 < choice.predicted_us <= 3 * 0.25, "of the multiply-adds; dense ones are rounded up to whole register blocks"
        assert choice.reason == "3.00x as fast as dense"


def test_dense_stays_where_it_is_faster(times: list[float]) -> None:
    times[:] = [4e-6, 2e-6]
    choice = check(graph(), [X], measure=True)[0]
    assert choice.decision == "dense"
    assert choice.kernel.startswith("dense_matmul ")
    assert (choice.measured_us, choice.dense_us) == (pytest.approx(2), pytest.approx(2))
    assert choice.reason == "dense is 2.00x as fast"


def test_without_measuring_what_is_stored_sparse_runs_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "interleave", lambda *_, **__: pytest.fail("measured"))
    for choice in check(graph(), [X], measure=False):
        assert (choice.decision, choice.measured_us, choice.dense_us, choice.predicted_us) == ("sparse", None, None, None)
        assert choice.reason == "not measured: the target is not this machine"


def test_layers_that_came_dense_are_no_choice(times: list[float]) -> None:
    assert check(fixed(nn.Linear(32, 16), X), [X], measure=True) == []


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


def test_a_few_zeros_within_blocks_are_worth_it() -> None:
    """Up to a tenth more is stored than there are nonzeros."""
    matrix = np.ones((4, 100), np.float32)
    matrix[0, :30] = 0
    assert common_rows(matrix) == 4
    matrix[0, :50] = 0
    assert common_rows(matrix) != 4
