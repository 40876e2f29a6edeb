"""The kernels that are timed, and the promises on made-up timings."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import structured_kernels as bench
from benchmarks.structured_kernels import DENSE, Shape
from sparsecc.structures.low_rank import LowRank
from sparsecc.structures.monarch import Monarch
from sparsecc.timing import Timing

SHAPE = Shape(rows=96, cols=64, tokens=32)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every kernel runs once; dense takes 4 s, low rank 1 s, the Monarchs 3 s and 2.5 s."""

    def fake(calls, seconds):
        for call in calls.values():
            call()
        taken = {DENSE: 4.0, "low_rank:9": 1.0, "monarch:2x2:4": 3.0, "monarch:4x4:3": 2.5}
        return {name: Timing(name, (taken[name.split()[0]],) * 3) for name in calls}

    monkeypatch.setattr(bench, "interleave", fake)
    return bench.measure(SHAPE, [LowRank(9), Monarch(2, 2, 4), Monarch(4, 4, 3)], threads=1, seconds=1.0)


def test_one_row_for_each_structure(rows: list[dict[str, Any]]) -> None:
    assert [row["name"] for row in rows] == [DENSE, "low_rank:9", "monarch:2x2:4", "monarch:4x4:3"]
    assert rows[1]["flops"] == pytest.approx(9 * (96 + 64) / (96 * 64))
    assert rows[1]["kernel"].startswith("structured_matmul")


def test_the_fastest_of_each_structure_is_promised(rows: list[dict[str, Any]]) -> None:
    assert [row["reached"] for row in rows] == [None, True, None, False]
    assert not bench.holds(rows) and bench.holds(rows[:3])


def test_the_table(rows: list[dict[str, Any]]) -> None:
    text = bench.table(rows, 2)
    assert "| 64 → 96 | 32 | low_rank:9 |" in text
    assert "| 4.00 | 4.00-4.00 | 2.00 reached |" in text and "| 1.60 | 1.60-1.60 | 2.00 missed |" in text
