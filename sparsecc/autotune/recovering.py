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

FOLDER = "recovered"
_FEWEST, _MOST, _ROUND = 50, 6000, 10  # steps: fewer gain little, more were not better by the time that they take
_TRIAL, _TIMED = 40, 9  # steps of the recovery by which steps are timed, of which so many are taken; it looks at every second
_LOOKS = 20  # of a recovery at what is held out
_SPARE = 0.4  # of a recovery: that the last one is begun, too
_LONGER = 4.0  # than to make a model without: what least squares of all layers take, before any were timed


@dataclass
class Recovering:
    """repair: without steps, which are decided once for all models of a search, and kept.  count: how many models are to be recovered in
    the time.  folder: for checkpoints.  stopped: why no more is recovered."""

    maker: Maker
    budget: Budget
    repair: Repair
    count: int
    folder: Path
    progress: Callable[[Progress], None] | None = None
    stopped: str = ""
    _decided: Repair | None = field(default=None, init=False)

    def __call__(self, assignment: Assignment) -> Tried | None:
        """The recovered model; None where it does not fit into the time, or the time was over before it was done."""
        try:
            repair = self._lasting(assignment)
            if repair is None:
                return None
            if not self.maker.knows(assignment, repair) and not self.budget.may(RECOVERY):
                self.stopped = "the time was over"
                return None
            self.folder.mkdir(exist_ok=True)
            with self.budget.timed(RECOVERY):
                return self.maker(assignment, repair, str(self.checkpoint(assignment, repair)), self._watched)
        except OutOfTime:
            self.stopped = "the time was over"
            return None

    @property
    def expected(self) -> float:
        """See `Repair.expected`, with the steps as they are known by now."""
        return (self._decided or self.repair).expected

    def checkpoint(self, assignment: Assignment, repair: Repair) -> Path:
        """The file of a recovery: with as many threads it gives the same numbers again."""
        recipe = self.maker.recipe(assignment, repair)
        what = json.dumps([self.maker.content, recipe, torch.get_num_threads()], sort_keys=True)
        return self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.safetensors"

    def forget(self, recovered: Sequence[Tried], kept: Sequence[Tried]) -> None:
        """Deletes the checkpoints of recovered models, but not those to be kept, of which the model is made again at once."""
        if self._decided is None:
            return
        names = {self.checkpoint(one.assignment, self._decided).name for one in kept if one.recovered}
        for one in recovered:
            path = self.checkpoint(one.assignment, self._decided)
            if path.name not in names:
                for file in self.folder.glob(f"{path.name}*"):  # of layers, by reconstruction
                    file.unlink(missing_ok=True)

    def _watched(self, now: Progress) -> None:
        self.budget.require(self.budget.lasted.get(TRY, 0.0))  # to compile and judge what comes out
        if self.progress is not None:
            self.progress(now)

    def _lasting(self, assignment: Assignment) -> Repair | None:
        """With the number of steps; None, and `stopped` says why, where too few fit into the time."""
        if self._decided is None:
            key = {"of": self.maker.content, "target": self.maker.trials.target_text, "repair": str(self.repair)}
            key |= {"goal": str(self.maker.goal), "minutes": self.budget.minutes}
            found = self.maker.store.get(key)
            if found is None:
                found = self._planned(assignment)
                if found is None:
                    return None
                self.maker.store.put(key, found)
            self.budget.lasted.setdefault(RECOVERY, found["seconds"])
            self._decided = self.repair if found["steps"] is None else self.repair.lasting(found["steps"])
        return self._decided

    def _planned(self, assignment: Assignment) -> dict[str, Any] | None:
        """steps: of each recovery.  seconds: that one takes, as it is predicted."""
        after = self.budget.lasted.get(TRY, 0.0)  # compiling and judging
        if self.repair.method != DISTILLATION:
            return {"steps": None, "seconds": _LONGER * after}
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
        before = told[0] - begun + after + _LOOKS * max(median(lengths[::2]) - step, 0.0)
        for count in (self.count, 1):
            steps = int((self.budget.left / (count + _SPARE) - before) / max(step, 1e-6)) // _ROUND * _ROUND
            if steps >= _FEWEST:
                steps = min(steps, _MOST)
                return {"steps": steps, "seconds": before + steps * step}
        self.stopped = f"less than {_FEWEST} steps of recovery fit into the time"
        return None


class _Enough(Exception):
    """Steps have been timed."""
