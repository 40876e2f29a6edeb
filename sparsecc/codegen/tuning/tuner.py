"""The loop: where most time is spent, measure what looks best, until the budget is spent or everything is known."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.records import Outcome, Records, best
from sparsecc.codegen.tuning.result import TaskResult, TuningResult, first_guess
from sparsecc.codegen.tuning.search import CostModel, propose, require_xgboost
from sparsecc.codegen.tuning.text import text
from sparsecc.codegen.tuning.worker import Worker
from sparsecc.codegen.tuning.workload import Workload

_BATCH = 8  # candidates between two trainings of the model
_BEHIND = 1.5  # times its rival's time from which on tuning a task is hardly going to make it the faster one
_TRIALS = 32  # per task, when the caller sets no limit
_GAIN = 0.99  # of the time: what is less is noise

Measure = Callable[..., Outcome]


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


class Tuner:
    """Tunes one workload into one file of records. measure: as `Worker.measure`."""

    def __init__(self, workload: Workload, records: Records, target: Target, measure: Measure, budget: Budget, seed: int = 0) -> None:
        require_xgboost()
        self._workload, self._records, self._target, self._measure = workload, records, target, measure
        self._budget = budget if budget != Budget() else Budget(trials=_TRIALS * len(workload.tasks))
        self._spaces = {task: task.space(target) for task in workload.tasks}
        self._all: dict[Task, dict[Knobs, Outcome]] = records.all()  # other models' tasks teach the model, too
        self._rng = {task: random.Random(f"{seed} {text(task)}") for task in self._spaces}
        self._rounds_without_gain = dict.fromkeys(self._spaces, 0)
        self._measured = 0
        self._start = time.monotonic()

    def run(self, progress: Callable[[Progress], None] | None = None) -> TuningResult:
        """Every task's first guess, then rounds of the most promising candidates of the task that matters most."""
        report = progress or (lambda _: None)
        for task in self._spaces:
            self._try(task, self._spaces[task][:1], report)
        while not self._spent():
            task = max(self._spaces, key=self._promise)
            if self._promise(task) <= 0:
                break
            self._round(task, report)
        return self._result()

    def _round(self, task: Task, report: Callable[[Progress], None]) -> None:
        before = self._us(task)
        model = CostModel(self._target, self._all, task.kernel)
        self._try(task, propose(task, self._spaces[task], self._all[task], model, _BATCH, self._rng[task]), report)
        self._rounds_without_gain[task] = 0 if self._us(task) < before * _GAIN else self._rounds_without_gain[task] + 1

    def _try(self, task: Task, candidates: list[Knobs], report: Callable[[Progress], None]) -> None:
        for knobs in candidates:
            if self._spent():
                return
            report(self._progress(task))
            self._all[task] = self._records.of(task)  # with what other processes have measured meanwhile
            if knobs in self._all[task]:
                continue
            outcome = self._measure(task, knobs, self._workload.weights.get(task), self._reference(task))
            self._records.add(task, knobs, outcome)
            self._all[task][knobs] = outcome
            self._measured += 1

    def _reference(self, task: Task) -> tuple[Task, Knobs, float] | None:
        """The task's best so far, else its rival's."""
        rivals = [rival for rival in self._workload.rivals(task) if rival.structure is None]  # which any weight fits
        for other in (task, *rivals):
            if known := best(self._all.get(other, {})):
                return other, known.knobs, known.us
        return None

    def _spent(self) -> bool:
        return self._share() >= 1

    def _share(self) -> float:
        return self._budget.share(self._trials(), time.monotonic() - self._start)

    def _trials(self) -> int:
        return sum(len(self._all.get(task, {})) for task in self._spaces)

    def _promise(self, task: Task) -> float:
        """µs that all layers spend in the task, less with each round that brought nothing; 0 where nothing is left to gain."""
        outcomes = self._all.get(task, {})
        if all(knobs in outcomes for knobs in self._spaces[task]):
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
) -> TuningResult:
    """Measure in worker processes on this machine, which `target` has to be."""
    with Worker(target) as worker:
        return Tuner(workload, records, target, worker.measure, budget, seed).run(progress)
