"""From a model and a goal to a recipe: rungs are timed and their losses measured, mixtures chosen, made, timed and judged, until the goal
or the end of the time is reached.

Everything that was measured is kept in a file of the folder that is written, so that the same call goes on where it was stopped, and a
second one measures nothing again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.api.trials import Trials
from sparsecc.autotune.choice import Assignment, Option
from sparsecc.autotune.condition import BYTES_KEPT, LATENCY, LATENCY_KEY
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.judge import Judge, split
from sparsecc.autotune.losses import digest, losses
from sparsecc.autotune.rungs import DENSE, REMOVAL, Rung, ladder
from sparsecc.autotune.search import Search, Tried, frontier
from sparsecc.autotune.store import Store
from sparsecc.calibration.context import Progress
from sparsecc.calibration.samples import Labelled, labelled_of
from sparsecc.errors import UserError
from sparsecc.graph.inputs import as_array

if TYPE_CHECKING:
    from sparsecc.graph.base import TensorSpec
    from sparsecc.graph.inputs import Sample
    from sparsecc.runtime.compiled import Compiled

STORE = "measured.sqlite"
MINUTES = 30.0
_CRITERION = "sparsegpt"
_FIRST = (
    "dense",
    "int8",
    "int8 1x4 60%",
    "int8 narrow 25%",
    "unstructured 80%",
    "4x1 60%",
    "2:4",
    "unstructured 90%",
    "int8 1x4 80%",
    "bfloat16",
)
"""Rungs that are measured first, since the time may be over before all are."""
_TIMING, _LOSSES = 0.35, 0.55  # of the time: after so much no further rung is timed, and no further losses are measured
_PROBES = ("int8", "int8 1x4 60%", "int8 narrow 25%", "unstructured 80%", "4x1 60%", "2:4")
_SLACK = 1.3  # another try is begun where the longest so far, and so much more, fits into the time left
_COMPARED = 4  # held-out samples by which a model's error is measured

_INFINITE = 1e30  # an error, as JSON has it
Said = Callable[[Progress], None]


@dataclass(frozen=True)
class Point:
    """A model that was made. recipe: its passes.  measured: by the keys of a goal's conditions.  predicted_ms: before it was made."""

    recipe: Mapping[str, Any]
    measured: Mapping[str, float]
    error: float
    predicted_ms: float

    @property
    def ms(self) -> float:
        return self.measured[LATENCY_KEY] / 1e3


@dataclass(frozen=True)
class Found:
    """What a search has found. model: its name.  points: all that was made, the dense model first.  best: of those that meet the goal, None
    where none does, and where all of the front is wanted.  nearest: the goal that a point meets, where none meets the one asked for.
    front: of those that meet the goal, that none beats in both time and error.  stopped: why the search ended.  samples: that the passes of
    recipes were calibrated with.  left_out: metrics and rungs, and why."""

    goal: Goal
    model: str
    threads: int
    points: tuple[Point, ...]
    best: Point | None
    nearest: Goal | None
    front: tuple[Point, ...]
    stopped: str
    seconds: float
    samples: Sequence[Any] = field(repr=False, default=())
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])


def search(
    model: Any,
    example_inputs: Any = None,
    *,
    goal: str | Sequence[str] | Mapping[str, Any] | Goal,
    calibration: Iterable[Any] | str | PathLike[str],
    folder: str | PathLike[str],
    metric: str | Callable[..., Any] | None = None,
    minutes: float = MINUTES,
    rungs: Sequence[str] | None = None,
    criterion: str = _CRITERION,
    threads: int | None = None,
    records: str | PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Said | None = None,
) -> Found:
    """Search for the recipe of a model that meets a goal on this machine's CPU.

    goal, metric: see `autotune.goal`.  calibration: as for `compile`; about every fourth sample is held out, to judge models by.  folder:
    for what is measured; made where it is not there.  minutes: to spend, measuring included.  rungs: what layers may become, by
    name (`rungs.Rung`); None for all that the CPU has numbers for.  criterion: by which weights are pruned.  Everything else as for
    `compile`.

    Raises UserError and its children for what the caller can mend.
    """
    started = time.monotonic()
    if not minutes > 0:
        raise UserError(f"minutes: {minutes} is no time to search in")
    wanted = Goal.parse(goal, metric)
    labelled: list[Labelled] = []

    def given(specs: Sequence[TensorSpec]) -> list[Sample]:
        labelled.extend(labelled_of(calibration, specs))
        return [one.sample for one in labelled]

    trials = Trials.open(model, example_inputs, threads=threads, records=records, input_shapes=input_shapes, samples=given)
    choosing, held = split(labelled)
    samples = [one.sample for one in choosing]
    every = ladder(trials.dtypes) if rungs is None else tuple(Rung.parse(name) for name in rungs)
    every = tuple(sorted(dict.fromkeys([DENSE, *every]), key=_place))
    _require_ours(Path(folder))
    with Store(Path(folder) / STORE) as store:
        dense = trials.compile({"passes": []}, samples)
        judge = Judge(wanted, dense, trials.graph.inputs, held, seed)
        deadline = started + 60 * minutes
        until = started + 60 * minutes * _TIMING
        cost, prune = Cost.measured(trials, every, store, progress=progress, until=until, dense=dense), {"criterion": criterion}
        known = losses(trials, cost.measured_rungs, samples, store, prune, progress, started + 60 * minutes * _LOSSES)
        tried_rungs = list(dict.fromkeys(rung for _, rung in known))
        maker = _Maker(trials, cost, judge, store, samples, held, dense, prune, wanted)
        left_out = {**judge.left_out, **_left_out(every, tried_rungs, cost, rungs is not None)}
        space = _Rungs(cost, known, tried_rungs)
        longest = [0.0]

        def make(assignment: Assignment) -> Tried:
            begun = time.monotonic()
            found = maker(assignment)
            longest[0] = max(longest[0], time.monotonic() - begun)
            return found

        looking = Search(
            space,
            _Wanted(wanted),
            make,
            go_on=lambda: time.monotonic() + _SLACK * longest[0] < deadline,
            tell=lambda one: _tell(progress, one, looking),
        )
        looking.run()
        stopped = "the time was over" if time.monotonic() + _SLACK * longest[0] >= deadline else "nothing better was left to try"
    return _found(wanted, maker, looking, stopped, time.monotonic() - started, left_out)


def _require_ours(folder: Path) -> None:
    """Makes the folder. Raises UserError for one that holds anything but a search: files would be replaced."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / STORE).exists():
            raise UserError(f"{folder}: holds other files; name a folder that is new, or that a search has made")
    except OSError as error:
        raise UserError(f"{folder}: cannot be a folder for a search: {error.strerror}") from None


def _place(rung: Rung) -> int:
    return _FIRST.index(str(rung)) if str(rung) in _FIRST else len(_FIRST)


def _left_out(every: Sequence[Rung], tried: Sequence[Rung], cost: Cost, named: bool) -> dict[str, str]:
    """Rungs that were not tried, and why. named: by the caller, who is told which of them no layer can be on."""
    fitting = {rung for site in cost.trials.sites for rung in cost.rungs(site)}
    nowhere = [rung for rung in every if rung in cost.measured_rungs and rung not in fitting]
    late = [rung for rung in every if rung not in tried and rung not in nowhere]
    found = {f"rung {rung}": "the time was over" for rung in late}
    return found | ({f"rung {rung}": "no layer can be there" for rung in nowhere} if named else {})


class _Rungs:
    """Cost and losses, as a search asks for them. Times count from the dense model's."""

    def __init__(self, cost: Cost, known: Mapping[tuple[str, Rung], float], ladder: Sequence[Rung]) -> None:
        self._cost, self._known = cost, known
        self._of = {str(rung): rung for rung in dict.fromkeys([DENSE, *ladder])}
        self.rungs, self.dense = tuple(self._of), str(DENSE)
        self.probes = tuple(name for name in _PROBES if name in self._of)
        self._sites = list(dict.fromkeys(site for site, _ in known))
        self._groups = {layer: group for group in cost.trials.groups.values() for layer in group.layers}
        self._options: list[Option] = []

    @property
    def rest_ms(self) -> float:
        return self._cost.predict({})

    def options(self) -> list[Option]:
        """A layer saves on a rung what the model takes longer with it alone taken off the rung: its neighbours are there, too, as a rule,
        and share what is done to their inputs."""
        if self._options:
            return self._options
        found, size = self._options, self._cost.bytes({})
        every = {rung: self._on(rung) for rung in self._of.values()}
        for rung, sites in every.items():
            whole = dict.fromkeys(sites, rung)
            together = self._cost.predict(whole)
            for site in self._sites:
                if site in sites and (site, rung) in self._known:
                    without = self._cost.predict({name: one for name, one in whole.items() if name != site})
                    ms = 0.0 if rung == DENSE else together - without
                    stored = self._cost.bytes({site: rung}) - size + size / len(self._sites)  # all sites together: all bytes
                    found.append(Option(site, str(rung), ms, stored, self._known[site, rung], self._tied(site, rung)))
        return found

    def _on(self, rung: Rung) -> set[str]:
        """The layers that can be there: where they become narrower together, all of a group or none."""
        there = {site for site in self._sites if rung in self._cost.rungs(site)}
        if rung.narrow is None:
            return there
        known = {site for site in there if (site, rung) in self._known}
        return {site for site in known if (group := self._groups.get(site)) is not None and known.issuperset(group.layers)}

    def _tied(self, site: str, rung: Rung) -> tuple[str, str] | None:
        """The layers of a group lose the same share, or nothing."""
        group = self._groups.get(site)
        return None if group is None else (group.name, "" if rung.narrow is None else f"{rung.narrow:g}")

    def predict(self, assignment: Assignment) -> float:
        return self._cost.predict(self.of(assignment))

    def of(self, assignment: Assignment) -> dict[str, Rung]:
        return {site: self._of[rung] for site, rung in assignment.items()}

    def correct(self, tried: Tried) -> None:
        self._options = []
        self._cost.correct(self.of(tried.assignment), tried.ms)


class _Wanted:
    """A goal, as a search asks for it."""

    def __init__(self, goal: Goal) -> None:
        self._goal, self.pareto = goal, goal.pareto
        bounds = {condition.word: condition for condition in goal.conditions}
        self.ms = bounds[LATENCY].quantity.amount / 1e3 if LATENCY in bounds else None
        self.size = bounds[BYTES_KEPT].quantity.amount if BYTES_KEPT in bounds else None
        self.floor = len(bounds) > (LATENCY in bounds) + (BYTES_KEPT in bounds)

    def good(self, tried: Tried) -> bool:
        """All conditions, those of time and bytes among them."""
        return self._goal.met(tried.quality)

    def better(self, one: Tried, other: Tried) -> bool:
        axis = self._goal.objective[0]
        mine, its = one.quality[axis.key], other.quality[axis.key]
        return mine < its if axis.better == "lower" else mine > its


@dataclass
class _Maker:
    """Makes a model of an assignment, times it beside the dense one, and judges it; once, as the store knows. A function of the user's may
    have changed since: what it said is not used again."""

    trials: Trials
    cost: Cost
    judge: Judge
    store: Store
    samples: Sequence[Any]
    held: Sequence[Labelled]
    dense: Compiled
    prune: Mapping[str, Any]
    goal: Goal
    made: dict[str, Point] = field(default_factory=dict[str, Point])

    @cached_property
    def _of(self) -> str:
        """What all models of this search have in common: the model as it came, samples and references, and a function of the user's."""
        references = [value for one in self.held for _, value in sorted((one.references or {}).items())]
        own = "" if self.goal.function is None else os.urandom(8).hex()
        return " ".join([self.trials.content, digest([*self.samples, *(one.sample for one in self.held), references]), own])

    def __call__(self, assignment: Assignment) -> Tried:
        rungs = {site: Rung.parse(rung) for site, rung in assignment.items()}
        recipe, predicted = self.recipe(rungs), self.cost.predict(rungs)
        key = {
            "of": self._of,
            "target": self.trials.target_text,
            "code": self.trials.version,
            "recipe": recipe,
            "metrics": list(self.goal.qualities),
        }
        found = self.store.of(key, lambda: self._measured(recipe))
        measured = dict(found["measured"])
        self.made[str(sorted(assignment.items()))] = Point(recipe, measured, found["error"], predicted)
        return Tried(assignment, measured[LATENCY_KEY] / 1e3, measured[BYTES_KEPT], found["error"], measured)

    def recipe(self, rungs: Mapping[str, Rung]) -> dict[str, Any]:
        return self.cost.recipe(rungs, prune=self.prune, structured=REMOVAL)

    def _measured(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        model = self.trials.compile(recipe, self.samples) if recipe["passes"] else self.dense
        measured = self.judge.quality(model).measured()
        measured |= {LATENCY_KEY: 1e3 * self.cost.time(model), BYTES_KEPT: float(sum(site.bytes_kept for site in model.report.sites))}
        return {"measured": measured, "error": self._error(model)}

    def _error(self, model: Compiled) -> float:
        """‖y − y'‖² / ‖y‖² over all outputs in floating point of some held-out samples, where the dense model's are finite; infinite where
        the other's are not."""
        apart = whole = 0.0
        for one in self.held[:_COMPARED]:
            inputs = [as_array(value) for value in one.sample]
            for mine, its in zip(self.dense.flat(inputs), model.flat(inputs), strict=True):
                if np.asarray(mine).dtype.kind == "f":
                    finite = np.isfinite(mine)
                    wide, other = np.asarray(mine, np.float64)[finite], np.asarray(its, np.float64)[finite]
                    apart, whole = apart + float(np.square(wide - other).sum()), whole + float(np.square(wide).sum())
        if not math.isfinite(apart):
            return _INFINITE
        return apart / whole if whole else 0.0


def _tell(progress: Said | None, one: Tried, looking: Search) -> None:
    if progress is not None:
        best = looking.best
        note = f"{one.ms:.2f} ms" + ("" if best is None else f", best so far {best.ms:.2f} ms")
        progress(Progress("trying models", len(looking.tried), len(looking.tried) + 1, note))


def _found(goal: Goal, maker: _Maker, looking: Search, stopped: str, seconds: float, left_out: Mapping[str, str]) -> Found:
    points = {id(one): maker.made[str(sorted(one.assignment.items()))] for one in looking.tried}
    best = looking.best
    nearest = None if best is not None or goal.pareto else goal.nearest([one.quality for one in looking.tried])
    front = tuple(points[id(one)] for one in frontier([one for one in looking.tried if goal.met(one.quality)]))
    chosen = None if best is None else points[id(best)]
    name, threads = maker.trials.name, maker.trials.target.threads
    return Found(goal, name, threads, tuple(points.values()), chosen, nearest, front, stopped, seconds, maker.samples, left_out)
