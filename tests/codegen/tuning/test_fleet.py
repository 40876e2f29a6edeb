"""Real processes: TVM's tracker and servers that build and time one small kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.fleet import Fleet
from sparsecc.codegen.tuning.measurer import Job, Reference
from sparsecc.codegen.tuning.records import Outcome, Records
from sparsecc.codegen.tuning.tracker import Address
from sparsecc.codegen.tuning.tuner import Budget, Progress, tune
from sparsecc.codegen.tuning.workload import Workload
from sparsecc.codegen.zeros import ZeroProfile
from sparsecc.errors import UserError
from tests.codegen.tuning import fleets, misbehaving
from tests.codegen.tuning.tasks import HERE, SMALL

pytestmark = pytest.mark.timeout(120)
MISBEHAVING = replace(SMALL, kernel="misbehaving")
WORKLOAD = Workload(Counter({(SMALL,): 1}))


@pytest.fixture(scope="module")
def tracker() -> Iterator[Address]:
    with fleets.tracker() as where:
        yield where


@pytest.fixture(scope="module")
def pair(tracker: Address) -> Iterator[list[subprocess.Popen[str]]]:
    """Two servers."""
    with fleets.servers(tracker, "pair", 2) as both:
        yield both


@contextmanager
def fleet(tracker: Address, key: str, target: Any = HERE, **options: Any) -> Iterator[tuple[Fleet, list[str]]]:
    told: list[str] = []
    with Fleet(target, tracker, key, told.append, **options) as found:
        yield found, told


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def knobs(groups: int) -> Tiles:
    return Tiles(16, 4, 16, groups)


def outcomes(found: Fleet, jobs: list[Job]) -> dict[Job, Outcome]:
    """Of jobs of which at most as many are under way as there is room for."""
    left, under_way, done = list(jobs), 0, {}
    while left or under_way:
        while left and under_way < found.room:
            found.submit(left.pop(0))
            under_way += 1
        if (one := found.finished()) is not None:
            under_way -= 1
            assert one[0] not in done
            done[one[0]] = one[1]
    return done


def test_what_fails_and_what_does_not_as_here(tracker: Address, pair: list[Any], tmp_path: Path) -> None:
    """Also what computes something else; weights are sent; and the servers go on."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((32, 16), np.float32) * (rng.random((32, 16)) < 0.3)
    np.save(tmp_path / "w.npy", matrix)
    sparse = Task("row_block_spmm", SMALL.spec, ZeroProfile.of(matrix))
    dense = Reference(SMALL, SMALL.space(HERE)[0], 10.0)
    fine = Reference(MISBEHAVING, knobs(misbehaving.FINE), 5.0)
    expected = {
        Job(MISBEHAVING, knobs(misbehaving.SEGFAULT), None, fine): "crashed: SIGSEGV",
        Job(MISBEHAVING, knobs(misbehaving.WRONG), None, fine): "computes something else: off by 1 of the largest output",
        Job(MISBEHAVING, knobs(misbehaving.FINE), None, fine): None,
        Job(sparse, sparse.space(HERE)[0], tmp_path / "w.npy", dense): None,
        Job(sparse, sparse.space(HERE)[1], tmp_path / "w.npy", dense): None,
    }
    with fleet(tracker, "pair") as (found, told):
        done = outcomes(found, list(expected))
    assert {job: outcome.failure for job, outcome in done.items()} == expected
    assert told and all("measures" in line for line in told)


def test_one_that_hangs_is_dropped_and_taken_again(tracker: Address, pair: list[Any]) -> None:
    jobs = [Job(SMALL, some) for some in SMALL.space(HERE)[:6]]
    with fleet(tracker, "pair") as (found, told):
        assert set(outcomes(found, jobs[:2])) == set(jobs[:2])
        assert fleets.soon(lambda: found.room == 2 or found.finished() is None)
        found._slack_s = 3.0 - found._limit_s
        with stopped(pair[0]):
            assert set(outcomes(found, jobs[2:4])) == set(jobs[2:4])
            assert sum("does not answer; what it measured is done again" in line for line in told) == 1
            assert found.room == 1
        assert found.finished() is None, "there is room for more again"
        assert "answers again" in told[-1] and found.room == 2
        assert set(outcomes(found, jobs[4:])) == set(jobs[4:])
        with stopped(pair[0]):
            since = time.monotonic()
            found.close()
            assert time.monotonic() - since < 10, "nobody waits for what hangs"


def test_without_servers(tracker: Address) -> None:
    with fleet(tracker, "none", patience_s=0.5) as (found, told):
        found.submit(Job(SMALL, SMALL.space(HERE)[0]))
        with pytest.raises(UserError, match=r"no server with key 'none' at tracker 127.*for 0.5 s; what was measured is kept"):
            found.finished()
    assert told == [f"no server with key 'none' at tracker {tracker}; waiting for up to 0.5 s"]


def test_a_server_that_is_not_the_target_is_refused_by_name(tracker: Address, pair: list[Any]) -> None:
    with fleet(tracker, "pair", replace(HERE, cpu="znver9")) as (found, told):
        found.submit(Job(SMALL, SMALL.space(HERE)[0]))
        assert found._handled(found._events.get(timeout=60)) is None
    assert found.room == 1
    assert f"({tracker.host}:" in told[0]
    assert "is not taken: it is no znver9, so that times measured there do not hold for it" in told[0]


def test_servers_are_killed_another_one_comes_and_nothing_is_lost(tracker: Address, pair: list[Any], tmp_path: Path) -> None:
    """The same number of measurements as one process makes, each once. Comes last here, as nothing is left of the pair."""
    with (
        ExitStack() as stack,
        fleet(tracker, "pair") as (found, told),
        Records(tmp_path / "r.db", HERE, "write") as records,
    ):

        def watch(now: Progress) -> None:
            if now.trials == 3:
                os.kill(pair[0].pid, signal.SIGKILL)
            if now.trials == 6:
                os.kill(pair[1].pid, signal.SIGKILL)
                stack.enter_context(fleets.servers(tracker, "pair", 1))

        result = tune(WORKLOAD, records, HERE, Budget(trials=9), progress=watch, fleet=found)
        assert result.measured == 9 == len(records.of(SMALL))
        assert all(outcome.us is not None for outcome in records.of(SMALL).values())
    assert any("is lost" in line for line in told) and "measures" in told[-1]
