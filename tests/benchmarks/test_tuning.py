from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tuning
from sparsecc.codegen.cpu.target import detect
from sparsecc.codegen.tuning.records import Outcome, Records
from sparsecc.timing import Spread, Timing


def test_cases_are_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SHAPES", (tuning.Shape("up", 96, 64, 12, "gelu"),))
    made = list(tuning.cases(tmp_path))
    assert [(case.pattern, case.sparsity) for case in made] == [(name, sparsity) for name, _, sparsity in tuning.PATTERNS]
    for case in made:
        matrix = np.load(case.weight)
        assert (matrix == 0).mean() == pytest.approx(case.sparsity, abs=0.01)
        assert case.task.structure is not None
        assert case.task.structure.block_rows == (4 if case.pattern == "4x1" else 1)
        assert case.task.spec.epilogue.activation == "gelu"


def test_the_best_is_timed_against_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(calls, seconds):
        for call in calls.values():
            call()
        return {"untuned": Timing("untuned", (2e-6,) * 3), "tuned": Timing("tuned", (1e-6,) * 3)}

    monkeypatch.setattr(tuning, "interleave", fake)
    monkeypatch.setattr(tuning, "SHAPES", (tuning.Shape("up", 96, 64, 12),))
    case, target = next(iter(tuning.cases(tmp_path))), detect(2)
    space = case.task.space(target)
    with Records(tmp_path / "r.db", target, "write") as records:
        for knobs, us in ((space[0], 9.0), (space[3], 5.0)):
            records.add(case.task, knobs, Outcome(Spread(us, us, us)))
        records.add(case.task, space[1], Outcome(None, "crashed"))
        row = tuning.entry(case, records, target)
    assert row["knobs"] == {"untuned": str(space[0]), "tuned": str(space[3])}
    assert (row["trials"], row["failures"], row["speedup"]["median"]) == (3, 1, 2.0)
    table = tuning.markdown({"tokens": 128, "threads": 2, "seconds": 180.0, "trials": 3, "rows": [row]})
    assert "| up | 96×64 | 4x1 50% | 2 | 1 | 1-1 | 2.00 | 2.00-2.00 | 3 |" in table


def test_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SHAPES", (tuning.Shape("up", 32, 16, 1),))
    monkeypatch.setattr(tuning, "PATTERNS", (("4x1", 4, 0.5),))
    monkeypatch.setattr("benchmarks.results.FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["tuning", "--seconds", "0.1", "--threads", "1"])
    assert tuning.main() == 0
    document = json.loads((tmp_path / "tuning.json").read_text())
    assert document["trials"] == 1 == document["rows"][0]["trials"]
    assert "| up | 32×16 | 4x1 50% |" in (tmp_path / "tuning.md").read_text()
