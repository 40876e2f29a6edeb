"""What a kill has cost, by what was begun, what was kept, and what came after."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import onnx
import pytest

from benchmarks.ladder import killed, watched
from benchmarks.ladder.killed import Kill, Run, compared
from sparsecc.autotune import tune
from sparsecc.autotune.store import Store


def test_what_was_under_way_is_lost_and_made_again() -> None:
    before, after = {"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert compared(1.0, ["a", "b", "c"], before, ["c", "d"], after, True) == Kill(1.0, kept=2, lost=1, again=0, changed=0, same=True)
    assert compared(1.0, ["a", "b"], before, ["c", "d"], after, True).lost == 0
    bad = compared(1.0, ["a", "b", "c", "d"], before, ["b", "c", "d"], after | {"a": "9"}, False)
    assert (bad.lost, bad.again, bad.changed, bad.same) == (2, 1, 1, False)


@pytest.mark.parametrize("wrong", [{"lost": 2}, {"again": 1}, {"changed": 1}, {"same": False}])
def test_the_verdict(wrong: dict[str, int]) -> None:
    good = Kill(1.0, kept=3, lost=1, again=0, changed=0, same=True)
    assert killed.verdict([good, good]) == ("at most 1 measurement lost, 0 made again; the same recipe 2 times of 2", True)
    bad = Kill(**{**vars(good), **wrong})
    assert not killed.verdict([good, bad])[1] and not killed.verdict([])[1]


def test_what_a_store_is_asked_for_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "get", Store.get)  # put back afterwards
    monkeypatch.setattr(Store, "put", Store.put)
    monkeypatch.setattr(tune, "ladder_of", tune.ladder_of)
    watched.watch(str(tmp_path / "run.log"))
    watched.limit("int8,4x1 50%")
    assert [str(rung) for rung in tune.ladder_of(None)]  # type: ignore[arg-type] == ["int8", "4x1 50%"]
    (tmp_path / "run").mkdir()
    run = Run(tmp_path, "run", 1)
    with Store(tmp_path / "run" / tune.STORE) as store:
        assert store.of({"k": 1}, lambda: 5) == store.of({"k": 1}, lambda: 6) == 5
        with pytest.raises(RuntimeError, match="killed"):
            store.of({"k": 2}, lambda: (_ for _ in ()).throw(RuntimeError("killed")))
    assert run.stored() == {json.dumps({"k": 1}): "5"}
    assert run.noted("begun") == ['{"k": 1}', '{"k": 2}'] and run.noted("measured") == ['{"k": 1}']
    assert compared(1.0, run.noted("begun"), run.stored(), [], run.stored(), True).lost == 1


def test_a_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, "run", 1)
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(run, "_command", [sys.executable, "-c", code])
    monkeypatch.chdir(tmp_path)
    run.kill(1.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert run.stored() == {} and run.noted("begun") == []


def test_the_model_is_one(tmp_path: Path) -> None:
    killed.model(tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
