"""The document and the table, on made-up timings: what is reached, what is missed, what is compared with what."""

from __future__ import annotations

from benchmarks.bert_base import BASELINE, Compiled, Row, _entry, _markdown, _row
from sparsecc.timing import Timing

BASE = Timing(BASELINE, (0.2, 0.2, 0.2))
CHECK = {"max_abs": 1e-6, "max_rel": 2e-6, "cosine": 1.0}


def entry(row: Row, seconds: float) -> dict:
    compiled = {row.name: Compiled(list, 40.0, {"check": CHECK})}
    cost = {row.name: {"peak_bytes": 900, "model_bytes": 400, "libraries_bytes": 100}}
    return _entry(Timing(row.name, (seconds,) * 3), BASE, (row,), compiled, cost, {})


def test_a_promise_is_reached_or_missed() -> None:
    assert entry(Row("4x1", 0.7, at_least=1.7), 0.1)["reached"] is True
    assert entry(Row("4x1", 0.7, at_least=1.7), 0.15)["reached"] is False
    assert entry(Row("4x1", 0.5), 0.15)["reached"] is None


def test_peers_are_checked_against_the_baseline() -> None:
    peer = _entry(Timing("torch", (0.4,) * 3), BASE, (), {}, {}, {"torch": 1e-6})
    assert peer["speedup"]["median"] == 0.5
    assert peer["check"] == {"max_rel": 1e-6}


def test_the_table_says_it_all() -> None:
    document = {"tokens": 128, "batch": 1, "threads": 2, "rows": [entry(Row("4x1", 0.7, at_least=1.7), 0.1)]}
    line = _markdown(document).splitlines()[-1]
    assert (
        line
        == "| sparsecc 4x1 70% | 100.0 | 100.0-100.0 | 2.00 | 2.00-2.00 | 1.70 reached | 2.0e-06 | 40 | 2.2x model, 2.0x less libraries |"
    )


def test_rows_are_read_from_the_command_line() -> None:
    assert _row("dense") == Row(None)
    assert _row("4x1:0.7") == Row("4x1", 0.7)
    assert _row("2:4:0.5") == Row("2:4", 0.5)
