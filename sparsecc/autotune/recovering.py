"""Recovers the model of one assignment, in a number of steps that the time of the search allows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sparsecc.autotune.budget import RECOVERY, TRY, Budget, OutOfTime
from sparsecc.autotune.choice import Assignment
from sparsecc.autotune.maker import Maker
from sparsecc.autotune.repair import DISTILLATION, Repair
from sparsecc.autotune.search import Tried
from sparsecc.calibration.context import Progress

FOLDER, OVER = "recovered", "the time was over"
_FEWEST, _MOST, _ROUND = 50, 10000, 10  # steps: fewer gain little, more were not better by the time that they take
_TRIAL, _TIMED = 40, 9  # steps of the recovery by which steps are timed, of which so many are taken; it looks at every second
_LOOKS = 20  # of a recovery at what is held out
_SHARE = 0.65  # of the time left, for each: the first learns longest, since half as many steps thrice come to less than all of them once
_LONGER = 4.0  # than to make a model without: what least squares of all layers take, before any were timed


@dataclass
class Recovering:
    """repair: without steps, which are decided for each model, the first of which has the largest part of the time; they are kept, so that
    the same search gives the same models.  folder: for checkpoints.  stopped: why no more is recovered."""

    maker: Maker
    budget: Budget
    repair: Repair
    folder: Path
    progress: Callable[[Progress], None] | None = None
    stopped: str = ""
    _decided: dict[str, Repair] = field(default_factory=dict[str, Repair], init=False)  # by the assignment

    def __call__(self, assignment: Assignment) -> Tried | None:
        """The recovered model; None where it does not fit into the time, or the time was over before it was done."""
        try:
            repair = self._lasting(assignment)
            if repair is None:
                return None
            self.folder.mkdir(exist_ok=True)
            with self.budget.timed(RECOVERY):
                found = self.maker(assignment, repair, str(self.checkpoint(assignment, repair)), self._watched)
            self._decided[_name(assignment)] = repair
            return found
        except OutOfTime:
            self.stopped = OVER
            return None

    def expected(self, assignment: Assignment | None = None) -> float:
        """See `Repair.expected`, with the steps of the next recovery, where they are known or can be: of an assignment whose steps may be
        timed."""
        with suppress(OutOfTime):
            plan = self._plan(assignment)
            return self.repair.expected if plan is None or plan["steps"] is None else self.repair.lasting(plan["steps"]).expected
        return self.repair.expected

    def checkpoint(self, assignment: Assignment, repair: Repair) -> Path:
        """The file of a recovery: with as many threads it gives the same numbers again."""
        recipe = self.maker.recipe(assignment, repair)
        what = json.dumps([self.maker.content, recipe, torch.get_num_threads()], sort_keys=True)
        return self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.safetensors"

    def forget(self, recovered: Sequence[Tried], kept: Sequence[Tried]) -> None:
        """Deletes the checkpoints of recovered models, but not those to be kept, of which the model is made again at once."""
        names = {self._checkpoint_of(one).name for one in kept if one.recovered}
        for path in map(self._checkpoint_of, recovered):
            if path.name not in names:
                for file in self.folder.glob(f"{path.name}*"):  # of layers, by reconstruction
                    file.unlink(missing_ok=True)

    def _checkpoint_of(self, one: Tried) -> Path:
        return self.checkpoint(one.assignment, self._decided[_name(one.assignment)])

    def _watched(self, now: Progress) -> None:
        self.budget.require(self.budget.lasted.get(TRY, 0.0))  # to compile and judge what comes out
        if self.progress is not None:
            self.progress(now)

    def _lasting(self, assignment: Assignment) -> Repair | None:
        """With the number of steps; None, and `stopped` says why, where too few fit into the time."""
        plan = self._plan(assignment)
        if plan is None:
            return None
        repair = self.repair if plan["steps"] is None else self.repair.lasting(plan["steps"])
        if not self.maker.knows(assignment, repair) and plan["seconds"] > self.budget.left:
            self.stopped = OVER
            return None
        self.maker.store.of(self._key(number=len(self._decided)), lambda: plan)
        return repair

    def _key(self, **what: Any) -> dict[str, Any]:
        key = {"of": self.maker.content, "target": self.maker.trials.target_text, "repair": str(self.repair)}
        return {**key, "goal": str(self.maker.goal), "minutes": self.budget.minutes, **what}

    def _plan(self, assignment: Assignment | None) -> dict[str, Any] | None:
        """Of the next recovery, as it was decided before, or as the time left allows. steps: of it.  seconds: that it will take.

        None, and `stopped` says why, where too little fits into the time, nothing can learn, or it is not known how long steps take.
        assignment: by which they are timed, where they were not yet."""
        if (known := self.maker.store.get(self._key(number=len(self._decided)))) is not None:
            return known
        after = self.budget.lasted.get(TRY, 0.0)  # compiling and judging
        if self.repair.method != DISTILLATION:
            return {"steps": None, "seconds": max(_LONGER * after, self.budget.lasted.get(RECOVERY, 0.0))}
        times = self.maker.store.get(self._key(times="of steps"))
        if times is None:
            times = None if assignment is None else self._timed(assignment)
            if times is None:
                return None
            self.maker.store.put(self._key(times="of steps"), times)
        before, step = times["before"] + after, times["step"]
        for share in (_SHARE, 1.0):
            steps = int((share * self.budget.left - before) / max(step, 1e-6)) // _ROUND * _ROUND
            if steps >= _FEWEST:
                steps = min(steps, _MOST)
                return {"steps": steps, "seconds": before + steps * step}
        self.stopped = f"less than {_FEWEST} steps of recovery fit into the time" if not self._decided else OVER
        return None

    def _timed(self, assignment: Assignment) -> dict[str, float] | None:
        """Seconds. step: of one.  before: of what a recovery takes beside its steps: pruning, and looks at what is held out."""
        begun, told = self.budget.clock(), list[float]()

        def watch(now: Progress) -> None:
            self._watched(replace(now, note="how long steps take"))
            if now.what == DISTILLATION:
                told.append(self.budget.clock())
                if len(told) == _TIMED:
                    raise _Enough

        recipe = self.maker.recipe(assignment, self.repair.lasting(_TRIAL))
        with suppress(_Enough):
            self.maker.trials.rewritten(recipe, self.maker.samples, watch)
        lengths = [later - sooner for sooner, later in pairwise(told)]
        if len(lengths) < 2:
            self.stopped = "no layer of the models that were chosen can learn"
            return None
        step = median(lengths[1::2])
        return {"before": told[0] - begun + _LOOKS * max(median(lengths[::2]) - step, 0.0), "step": step}


def _name(assignment: Assignment) -> str:
    return str(sorted(assignment.items()))


class _Enough(Exception):
    """Steps have been timed."""
