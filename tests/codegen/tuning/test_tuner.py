"""What the tuner does with measurements; they are made up here."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning import tuner as module
from sparsecc.codegen.tuning.measurer import InTurn, Job, Measurer
from sparsecc.codegen.tuning.records import Outcome, Records
from sparsecc.codegen.tuning.result import TuningResult
from sparsecc.codegen.tuning.tuner import Budget, Progress, Tuner, tune
from sparsecc.codegen.tuning.workload import Workload
from tests import ROOT
from tests.codegen.tuning.tasks import DENSE, HERE, SMALL, SPARSE, cost, us

WORKLOAD = Workload(Counter({(SPARSE, DENSE): 12}), {SPARSE: Path("w.npy")})


class Fake:
    """Measures as Worker does, by `cost`; `asked` is what for."""

    def __init__(self, fail_at: Task | None = None) -> None:
        self.asked: list[tuple[Task, Knobs, Path | None, Any]] = []
        self._fail_at = fail_at

    def __call__(self, job: Job) -> Outcome:
        self.asked.append((job.task, job.knobs, job.matrix, job.reference))
        return Outcome(None, "crashed: SIGSEGV") if job.task == self._fail_at else us(cost(job.task, job.knobs))


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    with Records(tmp_path / "r.db", HERE, "write") as records:
        yield records


def run(records: Records, measure: Any, budget: Budget, workload: Workload = WORKLOAD, **options: Any) -> TuningResult:
    return Tuner(workload, records, HERE, InTurn(measure), budget).run(**options)


def test_first_guesses_come_first_each_next_to_what_is_known(records: Records) -> None:
    fake = Fake()
    run(records, fake, Budget(trials=2))
    first, other = DENSE.space(HERE)[0], SPARSE.space(HERE)[0]
    assert fake.asked == [(DENSE, first, None, None), (SPARSE, other, Path("w.npy"), (DENSE, first, cost(DENSE, first)))]


def test_candidates_are_measured_next_to_the_best_so_far(records: Records) -> None:
    fake = Fake()
    run(records, fake, Budget(trials=40))
    seen: dict[Task, list[tuple[float, Knobs]]] = {}
    for task, knobs, _, reference in fake.asked[2:]:
        seen.setdefault(task, [(cost(task, task.space(HERE)[0]), task.space(HERE)[0])])
        fastest = min(seen[task], key=lambda entry: entry[0])
        assert reference == (task, fastest[1], fastest[0])
        seen[task].append((cost(task, knobs), knobs))


def test_tuning_finds_something(records: Records) -> None:
    result = run(records, Fake(), Budget(trials=100))
    sparse = next(task for task in result.tasks if task.task == SPARSE)
    assert (result.measured, sparse.layers, sparse.candidates) == (100, 12, len(SPARSE.space(HERE)))
    assert sparse.untuned_us == cost(SPARSE, SPARSE.space(HERE)[0])
    assert sparse.knobs is not None and sparse.tuned_us is not None and sparse.untuned_us is not None and sparse.speedup is not None
    assert sparse.tuned_us.median == cost(SPARSE, sparse.knobs) < sparse.untuned_us
    assert result.tuned_us == 12 * sparse.tuned_us.median
    assert f"({sparse.speedup:.2f}x)" in str(result)
    assert result.to_dict()["tasks"][0]["name"] == str(DENSE)


def test_a_task_far_behind_its_rival_gets_its_first_guess_alone(records: Records) -> None:
    """Dense takes twice as long as sparse here."""
    fake = Fake()
    run(records, fake, Budget(trials=60))
    assert sum(task == DENSE for task, *_ in fake.asked) == 1


def test_trials_go_where_most_time_is_spent(records: Records) -> None:
    workload = Workload(Counter({(DENSE,): 30, (SMALL,): 1}))
    fake = Fake()
    run(records, fake, Budget(trials=60), workload)
    counts = Counter(task for task, *_ in fake.asked)
    assert counts[DENSE] > 5 * counts[SMALL]


def test_nothing_is_measured_twice(records: Records) -> None:
    first, second, third = Fake(), Fake(), Fake()
    run(records, first, Budget(trials=30))
    result = run(records, second, Budget(trials=50))
    assert len(first.asked) == 30 and len(second.asked) == 20 == result.measured
    assert len({(task, knobs) for task, knobs, *_ in first.asked + second.asked}) == 50
    assert run(records, third, Budget(trials=50)).tuned_us == result.tuned_us
    assert third.asked == []


def test_until_everything_is_known(records: Records) -> None:
    fake = Fake()
    result = run(records, fake, Budget(seconds=600), Workload(Counter({(SMALL,): 1})))
    assert {knobs for _, knobs, *_ in fake.asked} == set(SMALL.space(HERE))
    assert result.tasks[0].trials == len(SMALL.space(HERE)) == len(fake.asked)


def test_without_a_limit_a_fixed_number_for_each_task(records: Records) -> None:
    fake = Fake()
    run(records, fake, Budget())
    assert len(fake.asked) == 2 * module._TRIALS


def test_time_runs_out(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def slow(job: Job) -> Outcome:
        now[0] += 1
        return us(cost(job.task, job.knobs))

    assert run(records, slow, Budget(trials=1000, seconds=7)).measured == 7


def test_what_another_process_measured_is_taken(records: Records, tmp_path: Path) -> None:
    """Between two of ours it adds everything but one candidate."""
    fake, missing = Fake(), SPARSE.space(HERE)[-1]

    def also(now: Progress) -> None:
        if len(fake.asked) == 2:
            with Records(tmp_path / "r.db", HERE, "write") as other:
                for knobs in SPARSE.space(HERE):
                    if knobs != missing:
                        other.add(SPARSE, knobs, us(cost(SPARSE, knobs)))

    run(records, fake, Budget(seconds=600), Workload(Counter({(SPARSE,): 1}), {SPARSE: Path("w.npy")}), progress=also)
    measured = [knobs for _, knobs, *_ in fake.asked]
    assert len(measured) == len(set(measured)) <= 4 and missing in measured


def test_failures_are_kept_and_not_tried_again(records: Records) -> None:
    """A task that always fails leaves its rival to itself."""
    fake = Fake(fail_at=DENSE)
    result = run(records, fake, Budget(trials=30))
    dense, sparse = result.tasks
    assert dense.tuned_us is None and dense.failures == dense.trials == 1
    assert sparse.trials == 29
    assert "no time" in str(dense) and "1 failed" in str(dense)
    again = Fake()
    run(records, again, Budget(trials=31))
    assert DENSE not in [task for task, *_ in again.asked]


def test_everything_fails(records: Records) -> None:
    result = run(records, Fake(fail_at=SMALL), Budget(trials=20), Workload(Counter({(SMALL,): 1})))
    assert (result.untuned_us, result.tuned_us, result.tasks[0].failures) == (None, None, 20)


def test_progress(records: Records) -> None:
    seen: list[Progress] = []
    run(records, Fake(), Budget(trials=20), progress=seen.append)
    assert [now.trials for now in seen] == list(range(20))
    assert [now.share for now in seen] == [i / 20 for i in range(20)]
    assert seen[0].untuned_us is None and seen[2].untuned_us == seen[-1].untuned_us
    tuned = [now.tuned_us for now in seen[2:]]
    assert tuned == sorted(tuned, key=lambda us: -(us or 0)), "it never gets worse"


def test_an_interrupt_keeps_what_was_measured(records: Records, tmp_path: Path) -> None:
    fake = Fake()

    def interrupted(job: Job) -> Outcome:
        if len(fake.asked) == 9:
            raise KeyboardInterrupt
        return fake(job)

    with pytest.raises(KeyboardInterrupt):
        run(records, interrupted, Budget(trials=20))
    assert sum(map(len, records.all().values())) == 9


KILLED = """
import sys
from pathlib import Path
from sparsecc.codegen.tuning.measurer import InTurn
from sparsecc.codegen.tuning.records import Records
from sparsecc.codegen.tuning.tuner import Budget, Tuner
from tests.codegen.tuning.tasks import HERE
from tests.codegen.tuning.test_tuner import Fake, WORKLOAD

class Loud(Fake):
    def __call__(self, job):
        print(len(self.asked) + 1, flush=True)
        return super().__call__(job)

with Records(Path(sys.argv[1]), HERE, "write") as records:
    Tuner(WORKLOAD, records, HERE, InTurn(Loud()), Budget(trials=10_000)).run()
"""


def test_who_is_killed_loses_at_most_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "r.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        begun = [30, *(int(line) for line in process.stdout.read().split("\n")[:-1])][-1]
    with Records(tmp_path / "r.db", HERE, "write") as records:
        known = sum(map(len, records.all().values()))
        assert begun - 1 <= known <= begun
        assert run(records, Fake(), Budget(trials=known + 5)).measured == 5


def test_in_worker_processes(records: Records) -> None:
    result = tune(Workload(Counter({(SMALL,): 1})), records, HERE, Budget(trials=3))
    assert (result.measured, result.tasks[0].failures) == (3, 0)
    assert result.tuned_us is not None and result.untuned_us is not None


class Several(Measurer):
    """Has room for some, whose outcomes come in a drawn order; from the fifth on one more."""

    def __init__(self, room: int, seed: int = 0) -> None:
        self.asked: list[Job] = []
        self.most = 0
        self._room, self._rng = room, random.Random(seed)
        self._under_way: list[Job] = []
        self._grew = False

    @property
    def room(self) -> int:
        return self._room + self._grew

    def submit(self, job: Job) -> None:
        self.asked.append(job)
        self._under_way.append(job)
        self.most = max(self.most, len(self._under_way))

    def finished(self) -> tuple[Job, Outcome] | None:
        if not self._grew and len(self.asked) > 4:
            self._grew = True
            return None
        job = self._under_way.pop(self._rng.randrange(len(self._under_way)))
        return job, us(cost(job.task, job.knobs))


@pytest.mark.parametrize("seed", range(3))
def test_several_at_once_measure_as_many_and_nothing_twice(records: Records, seed: int) -> None:
    several = Several(3, seed)
    seen: list[Progress] = []
    result = Tuner(WORKLOAD, records, HERE, several, Budget(trials=60)).run(seen.append)
    assert result.measured == 60 == sum(map(len, records.all().values()))
    assert len({(job.task, job.knobs) for job in several.asked}) == 60
    assert several.most == 4
    assert [now.trials for now in seen] == list(range(60)), "what is under way is counted"
    assert result.tuned_us is not None and result.untuned_us is not None and result.tuned_us < result.untuned_us


def test_several_at_once_compare_outputs_all_the_same(records: Records) -> None:
    """All but the first dense one wait until there is something to compare with."""
    several = Several(8)
    Tuner(WORKLOAD, records, HERE, several, Budget(trials=30)).run()
    first, *others = several.asked
    assert first.task == DENSE and first.reference is None
    assert all(job.reference is not None for job in others)


def test_several_at_once_until_everything_is_known(records: Records) -> None:
    several = Several(5)
    result = Tuner(Workload(Counter({(SMALL,): 1})), records, HERE, several, Budget(seconds=600)).run()
    assert {job.knobs for job in several.asked} == set(SMALL.space(HERE))
    assert result.measured == len(SMALL.space(HERE))


def test_what_was_the_fastest_elsewhere_is_tried_first_and_measured(tmp_path: Path) -> None:
    """The other target's times are never taken for ours."""
    elsewhere, fastest = replace(HERE, threads=7), min(SPARSE.space(HERE)[1:], key=lambda knobs: cost(SPARSE, knobs))
    with Records(tmp_path / "r.db", elsewhere, "write") as others:
        others.add(SPARSE, fastest, us(1.0))
        others.add(SPARSE, SPARSE.space(HERE)[0], us(2.0))
    fake = Fake()
    with Records(tmp_path / "r.db", HERE, "write") as records:
        result = run(records, fake, Budget(trials=3))
        assert records.of(SPARSE)[fastest] == us(cost(SPARSE, fastest))
    assert [knobs for task, knobs, *_ in fake.asked if task == SPARSE] == [SPARSE.space(HERE)[0], fastest]
    assert result.measured == 3
