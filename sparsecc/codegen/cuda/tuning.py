"""Looking for faster knobs on the GPU here: every candidate is built, timed beside the best so far, and noted in the records.

Spaces have some dozens of candidates, so that they are gone through in a drawn order and no model is asked.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sparsecc.codegen.cuda import measure, operator
from sparsecc.codegen.cuda.alone import AloneSpec
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.blob import offsets
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.choose import Choice
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.kernels import kernels_of, linear_kernels
from sparsecc.codegen.cuda.plan import Plan, Step
from sparsecc.codegen.cuda.target import Target
from sparsecc.codegen.cuda.task import Task
from sparsecc.codegen.cuda.unpacking import packed
from sparsecc.codegen.tuning.records import Outcome, Records, best
from sparsecc.codegen.tuning.result import TaskResult, TuningResult, first_guess
from sparsecc.codegen.tuning.tuner import Budget, Progress
from sparsecc.errors import SparseccError

_TRIALS = 32  # for each task, when the caller sets no limit


@dataclass
class Collector:
    """Takes the place of a chooser: keeps the packed weight of each kind of layer, and how many there are."""

    layers: dict[LinearSpec, int] = field(default_factory=dict)
    packed: dict[LinearSpec, Tensor] = field(default_factory=dict)

    def choose(self, spec: LinearSpec, weights: Weights, tokens: int) -> Choice:
        self.layers[spec] = self.layers.get(spec, 0) + 1
        if spec not in self.packed and kernels_of(spec.form):
            self.packed[spec] = packed(spec, weights)
        return Choice(None)

    def alone(self, spec: AloneSpec, kept: tuple[Tensor, ...] = (), flex: bool = True) -> Choice:
        """Has one guess, and nothing to tune."""
        return Choice(None)


class Tuner:
    """See `api.tune`."""

    def __init__(self, found: Collector, records: Records, target: Target, builder: Builder, budget: Budget, seed: int) -> None:
        self._found, self._records, self._builder = found, records, builder
        [name] = target.arches
        self._arch = arch(name)
        self._spaces = {task: self._drawn(task, seed) for task in self._tasks()}
        self._budget = budget if budget != Budget() else Budget(trials=_TRIALS * len(self._spaces))
        self._all: dict[Task, dict[Any, Outcome]] = {task: records.of(task) for task in self._spaces}
        self._measured, self._start = 0, time.monotonic()

    def run(self, progress: Callable[[Progress], None] | None = None) -> TuningResult:
        """Every task's first guess, then all tasks by turns."""
        report = progress or (lambda _: None)
        for turn in range(max(map(len, self._spaces.values()), default=0)):
            for task, candidates in self._spaces.items():
                if self._share() >= 1:
                    return self._result()
                if turn < len(candidates):
                    report(Progress(task, self._trials(), self._share(), self._sum(self._untuned_us), self._sum(self._us)))
                    self._try(task, candidates[turn])
        return self._result()

    def _tasks(self) -> list[Task]:
        rows = [(spec, name, row) for spec in self._found.packed for name, row in kernels_of(spec.form).items()]
        return [Task(name, replace(spec, tokens=tokens)) for spec, name, row in rows for tokens in row.tokens]

    def _drawn(self, task: Task, seed: int) -> list[Any]:
        first, *others = linear_kernels()[task.kernel].space(task.spec, self._arch) or [None]
        random.Random(f"{seed} {task}").shuffle(others)
        return [] if first is None else [first, *others]

    def _try(self, task: Task, knobs: Any) -> None:
        self._all[task] = self._records.of(task)  # with what other processes have measured meanwhile
        if knobs in self._all[task]:
            return
        try:
            outcome = Outcome(self._timed(task, knobs))
        except torch.OutOfMemoryError:
            raise
        except (SparseccError, RuntimeError) as error:
            if "illegal memory access" in str(error) or "unspecified launch failure" in str(error):
                raise  # after which nothing runs on this GPU in this process
            outcome = Outcome(None, str(error).splitlines()[0][:200])
        self._records.add(task, knobs, outcome)
        self._all[task][knobs] = outcome
        self._measured += 1

    def _timed(self, task: Task, knobs: Any) -> Any:
        """Beside the best so far, so that a GPU that has become slower slows both."""
        known = best(self._all[task])
        calls = [self._calls(task, each) for each in ([knobs] if known is None else [knobs, known.knobs])]
        spread, *reference = measure.in_turns(calls, rounds=9)
        if known is None:
            return spread
        by = known.us / reference[0].median
        return replace(spread, median=spread.median * by, p10=spread.p10 * by, p90=spread.p90 * by)

    def _calls(self, task: Task, knobs: Any) -> list[Callable[[], object]]:
        weight = self._found.packed[replace(task.spec, tokens=0)]
        binary = self._builder.linear(task.kernel, task.spec, knobs, self._arch)
        binaries = {self._arch.name: binary}
        parts = offsets(linear_kernels()[task.kernel].parts(task.spec))
        plan = Plan(replace(task.spec, tokens=0), parts, (Step(task.spec.tokens, task.kernel, str(knobs), binaries),), {})
        key, device = operator.register(plan), weight.device
        operator.prepare(key, device)
        dtype = getattr(torch, task.spec.dtype)
        x = torch.randn(task.spec.tokens, task.spec.depth, device=device, dtype=dtype)
        bias = torch.randn(task.spec.rows, device=device, dtype=dtype) if task.spec.bias else None
        residual = torch.randn(task.spec.tokens, task.spec.outputs, device=device, dtype=dtype) if task.spec.residual else None
        return [functools.partial(operator.linear_cuda, x, copy, bias, residual, key) for copy in measure.rotated(weight)]

    def _share(self) -> float:
        return self._budget.share(self._trials(), time.monotonic() - self._start)

    def _trials(self) -> int:
        return sum(map(len, self._all.values()))

    def _us(self, task: Task) -> float | None:
        known = best(self._all[task])
        return known.us if known else None

    def _untuned_us(self, task: Task) -> float | None:
        return first_guess(self._spaces[task], self._all[task])

    def _sum(self, us: Callable[[Task], float | None]) -> float | None:
        """Of all layers with one token, each on the fastest of its kernels."""
        total = 0.0
        for spec, count in self._found.layers.items():
            smallest = min((task.spec.tokens for task in self._spaces if replace(task.spec, tokens=0) == spec), default=0)
            times = [us(task) for task in self._spaces if task.spec == replace(spec, tokens=smallest)]
            known = [time for time in times if time is not None]
            if not known:
                return None
            total += count * min(known)
        return total

    def _result(self) -> TuningResult:
        return TuningResult(
            records=str(self._records.path),
            tasks=tuple(TaskResult.of(task, self._layers(task), space, self._all[task]) for task, space in self._spaces.items()),
            measured=self._measured,
            seconds=time.monotonic() - self._start,
            untuned_us=self._sum(self._untuned_us),
            tuned_us=self._sum(self._us),
        )

    def _layers(self, task: Task) -> int:
        return self._found.layers[replace(task.spec, tokens=0)]
