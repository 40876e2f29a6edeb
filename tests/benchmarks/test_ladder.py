"""The table of the ladder is made of what rows have written, whenever that was."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import fleet, results
from benchmarks.ladder import __main__ as ladder
from benchmarks.ladder.__main__ import ROWS, Row

MACHINE = {"cpu": "A CPU", "cores": 2}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Row, ...]:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    outcome = results.outcome("1.50 times", True) | {"date": "2026-12-01"}
    (tmp_path / "one.json").write_text(json.dumps({"machine": MACHINE, "outcome": outcome}))
    (tmp_path / "two.json").write_text(json.dumps({"machine": MACHINE, "outcome": outcome | {"reached": False}}))
    (tmp_path / "old.json").write_text(json.dumps({"machine": MACHINE}))
    return tuple(Row(name, f"what {name}", "1.4 times", "none", name) for name in ("one", "two", "three"))


def test_each_row_has_its_date_and_machine(rows: tuple[Row, ...]) -> None:
    lines = ladder.table(rows).splitlines()[2:]
    assert lines[0] == "| one | what one | 1.4 times | 1.50 times | reached | 2026-12-01 | A CPU, 2 cores |"
    assert [line.split(" | ")[4] for line in lines] == ["reached", "missed", "not measured"]
    assert Path(ladder.publish(rows)).read_text() == ladder.table(rows) + "\n"


def test_a_result_that_says_nothing_to_the_ladder_is_an_error(rows: tuple[Row, ...]) -> None:
    with pytest.raises(KeyError, match="outcome"):
        _ = Row("old", "", "", "none", "old").found


def test_rows_have_commands() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) == 7
    assert [row.name for row in ROWS if importlib.util.find_spec(row.module) is None] == []


def test_a_fleet_that_loses_nothing_and_is_fast_enough() -> None:
    promised = {"servers": 4, "times_one": 1.8, "at_least": 1.7, "reached": True}
    rows = [{"at_least": None}, promised]
    assert fleet.verdict({"lost": 0, "rows": rows}) == ("4 servers 1.80 times one; lost by killing one: 0", True)
    assert not fleet.verdict({"lost": 1, "rows": rows})[1]
    assert not fleet.verdict({"lost": 0, "rows": [promised | {"reached": False}]})[1]
