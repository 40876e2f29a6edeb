"""Makes a model of an assignment of rungs, times it and judges it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sparsecc.api.trials import Trials, Variant
from sparsecc.autotune.choice import Assignment
from sparsecc.autotune.condition import BYTES_KEPT, LATENCY_KEY
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.judge import Judge
from sparsecc.autotune.losses import digest
from sparsecc.autotune.repair import Repair
from sparsecc.autotune.rungs import REMOVAL, parsed
from sparsecc.autotune.search import Tried
from sparsecc.autotune.store import Store
from sparsecc.calibration.context import Progress
from sparsecc.calibration.outputs import spread
from sparsecc.calibration.samples import Labelled
from sparsecc.graph.inputs import as_array

_COMPARED, _HELD = 32, 2**28  # held-out samples by which a model's error is measured, and bytes of what the dense model gives for them
_INFINITE = 1e30  # an error, as JSON has it


@dataclass(frozen=True)
class Point:
    """A model that was made. recipe: its passes.  measured: by the keys of a goal's conditions.  predicted_ms: before it was made.
    recovered: whether the weights that are left have learnt what the dense model gives.  again: the recipe with the file in which that was
    kept, by which the same model is made at once; None for one that was not recovered."""

    recipe: Mapping[str, Any]
    measured: Mapping[str, float]
    error: float
    predicted_ms: float
    recovered: bool = False
    again: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def ms(self) -> float:
        return self.measured[LATENCY_KEY] / 1e3


def content_of(trials: Trials, samples: Sequence[Any], held: Sequence[Labelled]) -> str:
    """What all models of a search have in common: the model as it came, samples and references."""
    references = [[value for _, value in sorted((one.references or {}).items())] for one in held]
    return " ".join([trials.content, *map(digest, (samples, [one.sample for one in held], references))])


@dataclass
class Maker:
    """Makes a model of an assignment, times it beside the dense one, and judges it; once, as the store knows.

    prune: fields of the pass, for models that are not recovered."""

    trials: Trials
    cost: Cost
    judge: Judge
    store: Store
    samples: Sequence[Any]
    held: Sequence[Labelled]
    dense: Variant
    prune: Mapping[str, Any]
    goal: Goal
    made: dict[str, Point] = field(default_factory=dict[str, Point])

    @cached_property
    def content(self) -> str:
        return content_of(self.trials, self.samples, self.held)

    @cached_property
    def _own(self) -> str:
        """Of a function of the user's, which may have changed since: what it said is not used again."""
        return "" if self.goal.function is None else os.urandom(8).hex()

    def __call__(
        self,
        assignment: Assignment,
        repair: Repair | None = None,
        checkpoint: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Tried:
        """repair: how it is recovered, None for not at all.  checkpoint: a file for the state of the recovery; the recipe does not name
        it.  progress: called by passes; what it raises goes through, and nothing is kept then but the checkpoint."""
        recipe, predicted = self.recipe(assignment, repair), self.cost.predict(parsed(assignment))
        applied = recipe if checkpoint is None else self.recipe(assignment, repair, checkpoint)
        found = self.store.of(self._key(recipe), lambda: self._measured(applied, progress))
        measured = dict(found["measured"])
        recovered, error = repair is not None, found["error"]
        self.made[_name(assignment, recovered)] = Point(recipe, measured, error, predicted, recovered, applied if recovered else None)
        return Tried(assignment, measured[LATENCY_KEY] / 1e3, measured[BYTES_KEPT], error, measured, recovered)

    def point(self, tried: Tried) -> Point:
        return self.made[_name(tried.assignment, tried.recovered)]

    def knows(self, assignment: Assignment, repair: Repair) -> bool:
        """Whether the model was made and measured before."""
        return self.store.get(self._key(self.recipe(assignment, repair))) is not None

    def recipe(self, assignment: Assignment, repair: Repair | None = None, checkpoint: str | None = None) -> dict[str, Any]:
        rungs = parsed(assignment)
        if repair is None:
            return self.cost.recipe(rungs, prune=self.prune, structured=REMOVAL)
        return self.cost.recipe(rungs, prune=repair.prune, structured=REMOVAL, repair=repair.passes(checkpoint))

    def _key(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "of": f"{self.content} {self._own}",
            "target": self.trials.target_text,
            "code": self.trials.version,
            "recipe": recipe,
            "metrics": list(self.goal.qualities),
        }

    def _measured(self, recipe: Mapping[str, Any], progress: Callable[[Progress], None] | None) -> dict[str, Any]:
        model = self.trials.compile(recipe, self.samples, progress) if recipe["passes"] else self.dense
        measured = self.judge.quality(model).measured()
        measured |= {LATENCY_KEY: 1e3 * self.cost.time(model), BYTES_KEPT: float(sum(site.bytes_kept for site in model.report.sites))}
        return {"measured": measured, "error": self._error(model)}

    @cached_property
    def _compared(self) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
        """Held-out inputs, and what the dense model gives for them: as many as are held."""
        found: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
        held = 0
        for one in spread(self.held, _COMPARED):
            inputs = [as_array(value) for value in one.sample]
            outputs = [np.asarray(output) for output in self.dense.flat(inputs)]
            held += sum(output.nbytes for output in outputs)
            if found and held > _HELD:
                break
            found.append((inputs, outputs))
        return found

    def _error(self, model: Variant) -> float:
        """‖y − y'‖² / ‖y‖² over all outputs in floating point of some held-out samples, where the dense model's are finite; infinite where
        the other's are not."""
        apart = whole = 0.0
        for inputs, mine in self._compared:
            for y, its in zip(mine, model.flat(inputs), strict=True):
                if y.dtype.kind == "f":
                    finite = np.isfinite(y)
                    wide, other = np.asarray(y, np.float64)[finite], np.asarray(its, np.float64)[finite]
                    apart, whole = apart + float(np.square(wide - other).sum()), whole + float(np.square(wide).sum())
        if not math.isfinite(apart):
            return _INFINITE
        return apart / whole if whole else 0.0


def _name(assignment: Assignment, recovered: bool) -> str:
    return f"{sorted(assignment.items())} {recovered}"
