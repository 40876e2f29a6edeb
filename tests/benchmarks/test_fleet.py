from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import fleet, tuning
from sparsecc.codegen.cpu.target import detect
from sparsecc.codegen.tuning.records import Records
from sparsecc.codegen.tuning.tuner import Budget
from sparsecc.codegen.tuning.workload import Workload


def test_rows_say_what_was_promised() -> None:
    one, four = fleet.Run(1, 0, None, 30, 30, 60.0), fleet.Run(4, 0, None, 54, 54, 60.0)
    assert fleet.row(one, one)["reached"] is None
    row = fleet.row(four, one, fleet.AT_LEAST)
    assert (row["per_minute"], row["times_one"], row["reached"]) == (54.0, 1.8, True)
    assert fleet.row(fleet.Run(4, 0, None, 50, 50, 60.0), one, fleet.AT_LEAST)["reached"] is False
    table = fleet.markdown({"threads": 1, "lost": 0, "rows": [row]})
    assert "| 4 | 0 | 54 | 54 | 60 | 54 | 1.80 | 1.70 reached |" in table


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SHAPES", (tuning.Shape("up", 32, 16, 1),))
    monkeypatch.setattr(tuning, "PATTERNS", (("4x1", 4, 0.5),))
    [case], target = list(tuning.cases(tmp_path)), detect(1)
    workload = Workload(Counter({(case.task,): 1}), {case.task: case.weight})
    with fleet._tracker() as tracker, Records(tmp_path / "r.db", target, "write") as records:
        run = fleet.measured(workload, records, target, tracker, 1, Budget(trials=2), kill=False)
    assert (run.servers, run.killed, run.asked, run.measured, run.kept) == (1, 0, 2, 2, 2)
