from __future__ import annotations

from benchmarks.promises import Promise, promise_of, promise_table
from sparsecc.timing import Spread

TWO = Spread(2.0, 1.9, 2.1)


def test_at_least_and_at_most() -> None:
    assert Promise("model", "row", "peer", TWO, 2.0).reached
    assert not Promise("model", "row", "peer", TWO, 2.01).reached
    assert Promise("model", "row", "peer", TWO, 2.0, most=True).reached
    assert not Promise("model", "row", "peer", TWO, 1.99, most=True).reached
    assert not Promise("model", "row", "peer", TWO, 1.0, right=False).reached


def test_a_timed_row_becomes_a_line() -> None:
    row = {"name": "4x1", "ms": {"median": 12.34}, "speedup": TWO.to_dict(), "at_least": 1.5}
    promise = promise_of(row, "model", "peer")
    assert promise.to_dict()["reached"] is True
    assert promise_table([promise]).splitlines()[-1] == "| model | 4x1 | 12.3 | peer | 2.00 | 1.90-2.10 | at least 1.50 | reached |"
