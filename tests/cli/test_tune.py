from __future__ import annotations

import json
import signal
import sqlite3
import sys
import time
from contextlib import closing

import pytest

from sparsecc.cli.tune import _line
from sparsecc.codegen.tuning.tuner import Progress
from sparsecc.codegen.tuning.worker import Worker
from tests.cli.conftest import INPUTS
from tests.codegen.tuning.tasks import SPARSE, us

SHAPE = ("--input-shape", f"x:12,{INPUTS}")


@pytest.fixture
def quick(monkeypatch):
    """Nothing is built or timed; the value is what was asked for."""
    asked = []

    def measure(self, job):
        asked.append((job.task, job.knobs))
        return us(10.0 if job.task.structure else 20.0)

    monkeypatch.setattr(Worker, "measure", measure)
    return asked


def test_tune_then_compile(call, model, recipe, tmp_path, quick):
    records, out = tmp_path / "r.db", tmp_path / "t.json"
    command = ("tune", model, "--records", records, "--recipe", recipe, "--trials", 6, *SHAPE)
    code, text, errors = call(*command, "--json", out)
    assert (code, errors) == (0, [])
    assert "row_block_spmm 96×64 on 1×16 50% zeros by 4x1 relu  1 layers  10 -> 10 µs" in text
    result = json.loads(out.read_text())
    assert result["measured"] == 6 == len(set(quick)) == sum(task["trials"] for task in result["tasks"])
    assert result["tuned_us"] == 20.0
    assert call(*command, "--json", out)[0] == 0
    assert json.loads(out.read_text())["measured"] == 0
    report = tmp_path / "report.json"
    assert call("compile", model, tmp_path / "m.sparsecc", "--recipe", recipe, "--records", records, "--json", report, *SHAPE)[0] == 0
    for site in json.loads(report.read_text())["sites"]:
        assert (site["measured_us"], site["dense_us"], site["reason"]) == (10.0, 20.0, "2.00x as fast as dense, by the records")


def test_interrupted(call, model, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "measure", interrupt)
    code, text, errors = call("tune", model, "--records", tmp_path / "r.db", *SHAPE)
    assert (code, text) == (130, "")
    assert errors == [f"{tmp_path / 'r.db'}: holds what was measured; the same command goes on from there", "interrupted"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--records", "in.onnx"), "in.onnx: holds no records, or damaged ones"),
        (("--records", "no/r.db"), "there is no folder no"),
        (("--records", "r.db", "--trials", "0"), "'--trials'"),
        (("--records", "r.db", "--json", "r.db"), "r.db: is named twice"),
        ((), "--records: name a file for what is measured, or give a --goal"),
        (("--goal", "cosine>=0.9"), "--goal: models are calibrated and judged with samples; give them with --calib X.npz"),
        (("--goal", "cosine>=0.9", "--trials", "3"), "--trials: goes with kernels, not with --goal"),
    ],
)
def test_mistakes(call, model, monkeypatch, options, message):
    monkeypatch.chdir(model.parent)
    before = model.read_bytes()
    code, _, [error] = call("tune", "in.onnx", *options, *SHAPE)
    assert code == 2 and message in error
    assert model.read_bytes() == before


def test_progress_names_task_trials_and_gain():
    assert _line(Progress(SPARSE, 0, 0.0, None, None)) == f"0 measured  now {SPARSE}"
    assert _line(Progress(SPARSE, 7, 0.1, 2000.0, 1500.0)) == f"7 measured  all layers 2.00 -> 1.50 ms  now {SPARSE}"


def test_ctrl_c_as_a_program_and_on_from_there(call, interruptible, model, tmp_path):
    records = tmp_path / "r.db"
    command = [sys.executable, "-m", "sparsecc", "tune", str(model), "--records", str(records), "--threads", "1", *SHAPE]
    process = interruptible([*command, "--seconds", "300"])
    while process.poll() is None and measured(records) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "interrupted"
    known = measured(records)
    assert known >= 3
    code, _, errors = call(*command[3:], "--trials", known + 1, "--json", tmp_path / "t.json")
    assert (code, errors) == (0, [])
    assert json.loads((tmp_path / "t.json").read_text())["measured"] == 1 == measured(records) - known


def measured(records):
    if not records.exists():
        return 0
    with closing(sqlite3.connect(f"file:{records}?mode=ro", uri=True)) as database:
        try:
            return database.execute("SELECT count(*) FROM measurements").fetchone()[0]
        except sqlite3.OperationalError:  # no table yet
            return 0
