"""Every row computes its layer, and the promises on made-up timings."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import decode as bench
from benchmarks.decode import RIVAL
from sparsecc.codegen.cpu import backend
from sparsecc.timing import Timing

TAKEN = {RIVAL: 4.0, "dense fp32": 4.5, "16x1 fp32": 2.0, "2:4 fp32": 3.0, "2:4 int8": 1.0}


def rows(monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[dict[str, Any]]:
    """Every copy runs once."""

    def fake(calls, seconds):
        for call in calls.values():
            call()
        return {name: Timing(name, (TAKEN[name],) * 3) for name in calls}

    def fewest_bytes_first(calls, **_):
        return {name: Timing(name, (1.0 + index,) * 3) for index, name in enumerate(calls)}

    monkeypatch.setattr(bench, "interleave", fake)
    monkeypatch.setattr(backend, "interleave", fewest_bytes_first)
    return bench.measure(bench.Layer(64, 96, tokens, threads=2, cache=1 << 15, seconds=1.0))


@pytest.mark.parametrize("tokens", [1, 3])
def test_every_row_computes_its_layer(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, tokens)
    assert [row["name"] for row in found] == 2 * list(TAKEN)
    for row in found:
        assert row["error"] < (0.03 if "int8" in row["name"] else 1e-5)
    stored = {row["name"]: row["bytes"] for row in found}
    assert stored["2:4 int8"] < min(stored["16x1 fp32"], stored["2:4 fp32"])
    assert max(stored["16x1 fp32"], stored["2:4 fp32"]) < stored["dense fp32"]


def test_promises_are_about_one_warm_token(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, 1)
    assert [row["reached"] for row in found] == [None, None, True, False, True, *[None] * 5]
    assert not bench.holds(found)
    assert bench.holds([row for row in found if row["name"] != "2:4 fp32"])
    assert all(row["reached"] is None for row in rows(monkeypatch, 2))


def test_calls_go_round_copies() -> None:
    called: list[int] = []
    candidate = bench.Candidate("kernel", 1, 0.0, [lambda: called.append(0), lambda: called.append(1)])
    cold = candidate.cold
    for _ in range(3):
        cold()
    candidate.warm()
    assert called == [0, 1, 0, 0]
