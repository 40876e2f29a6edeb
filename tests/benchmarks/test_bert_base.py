"""The document and the table, on made-up timings: what is reached, what is missed, what is compared with what."""

from __future__ import annotations

from typing import Any

from benchmarks.bert_base import BASELINE, GROUPS, Compiled, Group, Row, _chosen, _entry, _row, markdown, promises
from sparsecc.timing import Timing

BASE = Timing(BASELINE, (0.2, 0.2, 0.2))
CHECK = {"max_abs": 1e-6, "max_rel": 2e-6, "cosine": 1.0}


def entry(row: Row, seconds: float, tolerance: float = 1e-3) -> dict[str, Any]:
    compiled = {row.name: Compiled(list, 40.0, {"check": CHECK}, tolerance)}
    return _entry(Timing(row.name, (seconds,) * 3), BASE, Group((), (BASELINE,), (row,), 1.0), compiled, {})


def test_a_promise_is_reached_or_missed() -> None:
    assert entry(Row("4x1", 0.7, at_least=1.7), 0.1)["reached"] is True
    assert entry(Row("4x1", 0.7, at_least=1.7), 0.15)["reached"] is False
    assert entry(Row("4x1", 0.5), 0.15)["reached"] is None


def test_wrong_outputs_reach_nothing() -> None:
    found = entry(Row("4x1", 0.7, at_least=1.7), 0.1, tolerance=1e-6)
    assert not found["right"] and found["reached"] is False


def test_peers_are_checked_against_the_baseline() -> None:
    peer = _entry(Timing("torch", (0.4,) * 3), BASE, Group((), (BASELINE,), (), 1.0), {}, {"torch": 1e-6})
    assert peer["speedup"]["median"] == 0.5
    assert peer["check"] == {"max_rel": 1e-6}


def test_the_table_says_it_all() -> None:
    cost = {"peak_bytes": 900, "model_bytes": 400, "libraries_bytes": 100}
    row = entry(Row("4x1", 0.7, at_least=1.7), 0.1) | {"compile_cost": cost}
    document = {"tokens": 128, "batch": 1, "threads": 2, "rows": [row]}
    assert markdown(document).splitlines()[-1] == (
        "| sparsecc 4x1 70% | 100.0 | 100.0-100.0 | 2.00 | 2.00-2.00 | 1.70 reached | 2.0e-06 | 40 | 0.001 | onnxruntime "
        "| 2.2x model, 2.0x less libraries |"
    )
    (promise,) = promises(document)
    assert (promise.baseline, promise.wanted, promise.reached) == (BASELINE, 1.7, True)


def test_rows_are_read_from_the_command_line() -> None:
    assert _row("dense") == Row(None)
    assert _row("4x1:0.7") == Row("4x1", 0.7)
    assert _row("2:4:0.5") == Row("2:4", 0.5)
    assert _row("bfloat16:dense") == Row(None, dtype="bfloat16")
    assert _row("int8:1x4:0.5") == Row("1x4", 0.5, dtype="int8")


def test_rows_bring_their_baselines() -> None:
    (group,) = _chosen([_row("int8:1x4:0.5")])
    assert [row.name for row in group.rows] == ["sparsecc int8 1x4 50%"]
    assert {peer.name for peer in group.peers} == set(group.baselines)


def test_only_what_is_promised_and_less_of_it() -> None:
    group = GROUPS[0].promised(0.85)
    assert [peer.name for peer in group.peers] == [BASELINE]
    assert all(row.at_least for row in group.rows)
    assert group.rows[0].at_least == 0.85
