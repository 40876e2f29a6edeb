"""Real processes that build and time one small kernel, and one that misbehaves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning import worker as module
from sparsecc.codegen.tuning.measurer import Job, Reference
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.tuning.worker import Worker
from sparsecc.codegen.zeros import ZeroProfile
from sparsecc.errors import SparseccError
from tests.codegen.tuning import misbehaving
from tests.codegen.tuning.tasks import HERE, SMALL

MISBEHAVING = replace(SMALL, kernel="misbehaving")
LIMIT_S = 3.0


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(HERE, [sys.executable, "-m", "tests.codegen.tuning.misbehaving"], LIMIT_S) as worker:
        yield worker


def knobs(groups: int) -> Tiles:
    return Tiles(16, 4, 16, groups)


FINE = Reference(MISBEHAVING, knobs(misbehaving.FINE), 5.0)


def test_a_first_measurement(worker: Worker) -> None:
    outcome = worker.measure(Job(SMALL, SMALL.space(HERE)[0]))
    assert outcome.failure is None and outcome.us is not None
    assert 0 < outcome.us.p10 <= outcome.us.median <= outcome.us.p90


def test_next_to_a_reference_times_are_relative_to_its_recorded_one(worker: Worker) -> None:
    """A candidate against itself takes about the recorded time, whatever this machine needs."""
    first = SMALL.space(HERE)[0]
    outcome = worker.measure(Job(SMALL, first, None, Reference(SMALL, first, 1e6)))
    assert outcome.us is not None
    assert 1e5 < outcome.us.median < 1e7


def test_sparse_next_to_dense(worker: Worker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((32, 16), np.float32) * (rng.random((32, 16)) < 0.3)
    np.save(tmp_path / "w.npy", matrix)
    sparse = Task("row_block_spmm", SMALL.spec, ZeroProfile.of(matrix))
    outcome = worker.measure(Job(sparse, sparse.space(HERE)[0], tmp_path / "w.npy", Reference(SMALL, SMALL.space(HERE)[0], 10.0)))
    assert outcome.failure is None


@pytest.mark.parametrize(
    ("groups", "failure"),
    [
        (misbehaving.SEGFAULT, "crashed: SIGSEGV"),
        (misbehaving.HANG, "took longer than 3 s"),
        (misbehaving.RAISE, "ValueError: no such register"),
        (misbehaving.WRONG, "computes something else: off by 1 of the largest output"),
        (misbehaving.EXIT, "crashed: exit code 3, out of luck"),
        (misbehaving.NAN, "computes NaN or infinity"),
    ],
)
def test_what_misbehaves_is_a_failure_and_the_next_one_is_measured(worker: Worker, groups: int, failure: str) -> None:
    assert worker.measure(Job(MISBEHAVING, knobs(groups), None, FINE)) == Outcome(None, failure)
    assert worker.measure(Job(MISBEHAVING, knobs(misbehaving.FINE), None, FINE)).us is not None


def test_a_process_killed_from_outside_says_nothing_about_the_candidate(worker: Worker) -> None:
    with pytest.raises(SparseccError, match="was ended by SIGKILL"):
        worker.measure(Job(MISBEHAVING, knobs(misbehaving.KILLED)))
    assert worker.measure(Job(*FINE[:2])).us is not None


def test_a_process_that_died_while_nobody_looked(worker: Worker) -> None:
    worker.measure(Job(*FINE[:2]))
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGSEGV)
    worker._process.wait()
    assert worker.measure(Job(*FINE[:2])) == Outcome(None, "crashed: SIGSEGV")


def test_a_process_that_does_not_start() -> None:
    with Worker(HERE, [sys.executable, "-c", "raise SystemExit('no such library')"]) as worker:
        with pytest.raises(SparseccError, match="does not start: crashed: exit code 1, no such library"):
            worker.measure(Job(*FINE[:2]))
        assert worker._process is None


@pytest.mark.parametrize(("script", "limit"), [("", "_START_S"), ("print(flush=True);", "_SLACK_S")])
def test_a_process_that_says_nothing(monkeypatch: pytest.MonkeyPatch, script: str, limit: str) -> None:
    monkeypatch.setattr(module, limit, 0.5)
    with Worker(HERE, [sys.executable, "-c", f"{script}import time; time.sleep(60)"], 0.5) as worker:
        with pytest.raises(SparseccError, match=r"the process that measures says nothing for \d(.5)? s"):
            worker.measure(Job(*FINE[:2]))
        assert worker._process is None


@pytest.mark.parametrize("ready", ["print(flush=True)", "pass"])
def test_an_interrupt_leaves_no_process(ready: str) -> None:
    script = f"import os, signal, sys; {ready}; os.kill(os.getppid(), signal.SIGINT); sys.stdin.read()"
    with Worker(HERE, [sys.executable, "-c", script]) as worker:
        with pytest.raises(KeyboardInterrupt):
            worker.measure(Job(*FINE[:2]))
        assert worker._process is None
