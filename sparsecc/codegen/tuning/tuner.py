"""The loop: where most time is spent, measure what looks best, until the budget is spent or everything is known."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.carried import Carried
from sparsecc.codegen.tuning.cost_model import require_xgboost
from sparsecc.codegen.tuning.measurer import InTurn, Job, Measurer, Reference
from sparsecc.codegen.tuning.records import Outcome, Records, best
from sparsecc.codegen.tuning.result import TaskResult, TuningResult, first_guess
from sparsecc.codegen.tuning.search import propose
from sparsecc.codegen.tuning.text import text
from sparsecc.codegen.tuning.worker import Worker
from sparsecc.codegen.tuning.workload import Workload

_BATCH = 4  # candidates between two trainings of the model
_BEHIND = 1.5  # times its rival's time from which on tuning a task is hardly going to make it the faster one
_TRIALS = 32  # per task, when the caller sets no limit
_GAIN = 0.99  # of the time: what is less is noise

_UNDER_WAY = Outcome(None, "is measured now")


@dataclass(frozen=True)
class Budget:
    """trials: measurements of this workload to have in the records, those included that were there.  seconds: of this run."""

    trials: int | None = None
    seconds: float | None = None

    def share(self, trials: int, seconds: float) -> float:
        """How much of it these are."""
        used = ((trials, self.trials), (seconds, self.seconds))
        return max(amount / limit for amount, limit in used if limit is not None)


@dataclass(frozen=True)
class Progress:
    """Before a measurement. task: as in `TaskResult`.  share: of the budget that is spent.  untuned_us, tuned_us: all layers' sum, None
    until each has a time."""

    task: Any
    trials: int
    share: float
    untuned_us: float | None
    tuned_us: float | None


@dataclass
class _Round:
    """Candidates that were proposed together. before_us: the task's best time then.  left: those that have no outcome yet."""

    task: Task
    before_us: float
    left: int


_Candidate = tuple[Task, Knobs, _Round | None]


class Tuner:
    """Tunes one workload into one file of records."""

    def __init__(self, workload: Workload, records: Records, target: Target, measurer: Measurer, budget: Budget, seed: int = 0) -> None:
        require_xgboost()
        self._workload, self._records, self._target, self._measurer = workload, records, target, measurer
        self._budget = budget if budget != Budget() else Budget(trials=_TRIALS * len(workload.tasks))
        self._spaces = {task: task.space(target) for task in workload.tasks}
        self._all: dict[Task, dict[Knobs, Outcome]] = records.all()  # other models' tasks teach the model, too
        self._models = Carried(records, target)
        self._rng = {task: random.Random(f"{seed} {text(task)}") for task in self._spaces}
        self._rounds_without_gain = dict.fromkeys(self._spaces, 0)
        self._queue: list[_Candidate] = [(task, space[0], None) for task, space in self._spaces.items() if space]
        self._under_way: dict[Job, _Round | None] = {}
        self._measured = 0
        self._start = time.monotonic()

    def run(self, progress: Callable[[Progress], None] | None = None) -> TuningResult:
        """Every task's first guess, then rounds of the most promising candidates of the task that matters most.

        As many are under way as the measurer has room for. With room for one, the same seed and times give the same search."""
        report = progress or (lambda _: None)
        while True:
            while len(self._under_way) < self._measurer.room and (job := self._next(report)) is not None:
                self._measurer.submit(job)
            if not self._under_way:
                self._models.keep((task.kernel for task in self._spaces), self._all)
                return self._result()
            if (done := self._measurer.finished()) is not None:
                self._note(*done)

    def _next(self, report: Callable[[Progress], None]) -> Job | None:
        """What to measure now. None when the budget is spent, and when that depends on what is under way."""
        while not self._spent() and (candidate := self._candidate()) is not None:
            task, knobs, round_ = candidate
            report(self._progress(task))
            self._all[task] = self._records.of(task)  # with what other processes have measured meanwhile
            if knobs in self._all[task]:
                self._count(round_)
                continue
            job = Job(task, knobs, self._workload.weights.get(task), self._reference(task))
            self._under_way[job] = round_
            return job
        return None

    def _candidate(self) -> _Candidate | None:
        if not self._queue:
            self._queue = self._round()
        for index, (task, _, _) in enumerate(self._queue):
            if not self._will_have_a_reference(task):
                return self._queue.pop(index)
        return None

    def _round(self) -> list[_Candidate]:
        """Of the task that matters most; none when nothing is left to gain."""
        task = max(self._spaces, key=self._promise)
        if self._promise(task) <= 0:
            return []
        model = self._models.model(task.kernel, self._all)
        tried = self._tried(task)
        chosen = propose(task, self._spaces[task], tried, model, _BATCH, self._rng[task])
        chosen = [*dict.fromkeys([*self._hinted(task, tried), *chosen])][:_BATCH]
        round_ = _Round(task, self._us(task), len(chosen))
        return [(task, knobs, round_) for knobs in chosen]

    def _hinted(self, task: Task, tried: Mapping[Knobs, Outcome]) -> list[Knobs]:
        """What was the fastest on other targets, where that was not tried here."""
        fastest = [known.knobs for hint in self._models.hints if (known := best(hint.tasks.get(task, {})))]
        return [knobs for knobs in dict.fromkeys(fastest) if knobs not in tried and knobs in self._spaces[task]]

    def _tried(self, task: Task) -> dict[Knobs, Outcome]:
        """With what is under way, which has no time yet."""
        return self._all.get(task, {}) | {job.knobs: _UNDER_WAY for job in self._under_way if job.task == task}

    def _will_have_a_reference(self, task: Task) -> bool:
        """Once what is under way has its time; until then there is nothing to compare its outputs with."""
        if self._reference(task) is not None:
            return False
        others = {task, *self._dense_rivals(task)}
        return any(job.task in others for job in self._under_way)

    def _note(self, job: Job, outcome: Outcome) -> None:
        round_ = self._under_way.pop(job)
        self._records.add(job.task, job.knobs, outcome)
        self._all.setdefault(job.task, {})[job.knobs] = outcome
        self._measured += 1
        self._count(round_)

    def _count(self, round_: _Round | None) -> None:
        """One less in a round; at its end, whether it brought something."""
        if round_ is None:
            return
        round_.left -= 1
        if round_.left == 0:
            gained = self._us(round_.task) < round_.before_us * _GAIN
            self._rounds_without_gain[round_.task] = 0 if gained else self._rounds_without_gain[round_.task] + 1

    def _reference(self, task: Task) -> Reference | None:
        """The task's best so far, else its rival's."""
        for other in (task, *self._dense_rivals(task)):
            if known := best(self._all.get(other, {})):
                return Reference(other, known.knobs, known.us)
        return None

    def _dense_rivals(self, task: Task) -> list[Task]:
        """Those that any weight fits."""
        return [rival for rival in self._workload.rivals(task) if rival.structure is None]

    def _spent(self) -> bool:
        return self._share() >= 1

    def _share(self) -> float:
        return self._budget.share(self._trials(), time.monotonic() - self._start)

    def _trials(self) -> int:
        return sum(len(self._all.get(task, {})) for task in self._spaces) + len(self._under_way)

    def _promise(self, task: Task) -> float:
        """µs that all layers spend in the task, less with each round that brought nothing; 0 where nothing is left to gain."""
        outcomes = self._tried(task)
        if all(knobs in outcomes for knobs in self._spaces[task]) or self._will_have_a_reference(task):
            return 0.0
        own, total = self._us(task), 0.0
        for rivals, count in self._workload.layers.items():
            fastest = min(self._us(rival) for rival in rivals)
            if task in rivals and (own <= _BEHIND * fastest or fastest == inf):
                total += count * fastest
        return total / (1 + self._rounds_without_gain[task])

    def _us(self, task: Task) -> float:
        known = best(self._all.get(task, {}))
        return known.us if known else inf

    def _untuned_us(self, task: Task) -> float:
        us = first_guess(self._spaces[task], self._all.get(task, {}))
        return inf if us is None else us

    def _sum(self, us: Callable[[Task], float]) -> float | None:
        """Of all layers, each on the fastest of its rivals."""
        total = sum(count * min(us(task) for task in rivals) for rivals, count in self._workload.layers.items())
        return total if total < inf else None

    def _progress(self, task: Task) -> Progress:
        return Progress(task, self._trials(), self._share(), self._sum(self._untuned_us), self._sum(self._us))

    def _result(self) -> TuningResult:
        return TuningResult(
            records=str(self._records.path),
            tasks=tuple(self._task_result(task) for task in self._spaces),
            measured=self._measured,
            seconds=time.monotonic() - self._start,
            untuned_us=self._sum(self._untuned_us),
            tuned_us=self._sum(self._us),
        )

    def _task_result(self, task: Task) -> TaskResult:
        layers = sum(count for rivals, count in self._workload.layers.items() if task in rivals)
        return TaskResult.of(task, layers, self._spaces[task], self._all.get(task, {}))


def tune(
    workload: Workload,
    records: Records,
    target: Target,
    budget: Budget,
    *,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    fleet: Measurer | None = None,
) -> TuningResult:
    """Measure on a fleet; without one in a worker process on this machine, which `target` has to be."""
    if fleet is not None:
        return Tuner(workload, records, target, fleet, budget, seed).run(progress)
    with Worker(target) as worker:
        return Tuner(workload, records, target, InTurn(worker.measure), budget, seed).run(progress)
