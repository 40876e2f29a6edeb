"""From a model and a goal to a recipe: rungs are timed and their losses measured, mixtures chosen, made, timed and judged, until the goal
or the end of the time is reached.

Everything that was measured is kept in a file of the folder that is written, so that the same call goes on where it was stopped, and a
second one measures nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.api.gpu_trials import trials_for
from sparsecc.autotune.aims import NOTHING, Aims
from sparsecc.autotune.budget import ALONE, TRY, WITH_RECOVERY, Budget, OutOfTime
from sparsecc.autotune.choice import Assignment, Option
from sparsecc.autotune.condition import BYTES_KEPT, LATENCY, Condition
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.gpu_rungs import ladder_of
from sparsecc.autotune.judge import Judge, parted
from sparsecc.autotune.losses import losses
from sparsecc.autotune.maker import Maker, Point
from sparsecc.autotune.recovering import FOLDER, OVER, Recovering
from sparsecc.autotune.repair import ONE_SHOT, Repair, unrepaired
from sparsecc.autotune.rungs import DENSE, Rung
from sparsecc.autotune.search import Search, Tried
from sparsecc.autotune.store import Store
from sparsecc.autotune.telling import Said, tell, with_time
from sparsecc.calibration.samples import Labelled, labelled_of
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from sparsecc.graph.base import TensorSpec
    from sparsecc.graph.inputs import Sample

STORE = "measured.sqlite"
MINUTES = 30.0
_FIRST = (
    "dense",
    "int4",
    "int4 2:4",
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
_PROBES = ("int4", "int4 2:4", "int8", "int8 1x4 60%", "int8 narrow 25%", "narrow 25%", "unstructured 80%", "4x1 60%", "2:4")
_LOST = (0.01, 0.03, 0.08)  # of quality, at which a front is recovered first


@dataclass(frozen=True)
class Found:
    """What a search has found. model: its name.  machine: on which it was measured.  points: all that was made, the dense model
    first.  best: of those that meet the goal, None where none does, and where all of the front is wanted.  nearest: the goal that a point
    meets, where none meets the one asked for.  front: of those that meet the goal, that none beats in both time and quality.  stopped: why
    the search ended.  samples: that the passes of recipes were calibrated with.  left_out: metrics and rungs, and why.  notes: on how it
    was measured."""

    goal: Goal
    model: str
    machine: str
    points: tuple[Point, ...]
    best: Point | None
    nearest: Goal | None
    front: tuple[Point, ...]
    stopped: str
    seconds: float
    samples: Sequence[Any] = field(repr=False, default=())
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: Sequence[str] = ()


def search(
    model: Any,
    example_inputs: Any = None,
    *,
    goal: str | Sequence[str] | Mapping[str, Any] | Goal,
    calibration: Iterable[Any] | str | PathLike[str],
    held_out: Iterable[Any] | str | PathLike[str] | None = None,
    folder: str | PathLike[str],
    metric: str | Callable[..., Any] | None = None,
    minutes: float = MINUTES,
    rungs: Sequence[str] | None = None,
    criterion: str = ONE_SHOT,
    recover: bool = True,
    target: str = "cpu",
    threads: int | None = None,
    records: str | PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Said | None = None,
) -> Found:
    """Search for the recipe of a model that meets a goal on this machine.

    goal, metric: see `autotune.goal`.  calibration: as for `compile`.  held_out: samples to judge models by, in the same form; None takes
    about every fourth of `calibration` for this.  folder: for what is measured; made where it is not there.  minutes: to spend, measuring
    included; only opening and compiling the model as it came, and measuring one rung, take as long as they take.  rungs: what layers may
    become, by name (`rungs.Rung`); None for all that the CPU has numbers for, or the GPU kernels.  criterion: by which weights are
    pruned.  recover: whether, in the last part of the time, what is left of pruned models learns what the dense one gives, as the pass
    `recover` does; the number of steps stands in the recipe. Masks are chosen by `alps` then, where the criterion is sparsegpt. On a GPU
    nothing is recovered.  target: cpu or cuda, this machine's.  Everything else as for `compile`.

    Raises UserError and its children for what the caller can mend.
    """
    if not minutes > 0:
        raise UserError(f"minutes: {minutes} is no time to search in")
    budget = Budget(minutes)
    told = with_time(progress, budget)
    wanted = Goal.parse(goal, metric)
    labelled: list[Labelled] = []

    def given(specs: Sequence[TensorSpec]) -> list[Sample]:
        labelled.extend(labelled_of(calibration, specs))
        return [one.sample for one in labelled]

    options: dict[str, Any] = {"target": target, "threads": threads, "records": records, "input_shapes": input_shapes}
    trials = trials_for(target).open(model, example_inputs, samples=given, **options)
    recover = recover and trials.recovers
    choosing, held = parted(labelled, held_out, trials.graph.inputs)
    samples = [one.sample for one in choosing]
    every = ladder_of(trials) if rungs is None else tuple(Rung.parse(name) for name in rungs)
    every = tuple(sorted(dict.fromkeys([DENSE, *every]), key=_place))
    _require_ours(Path(folder))
    with Store(Path(folder) / STORE) as store:
        trials.remember(store.of)
        dense = trials.compile({"passes": []}, samples)
        judge = Judge(wanted, dense, trials.graph.inputs, held, seed)
        prune, shares = {"criterion": criterion}, WITH_RECOVERY if recover else ALONE
        cost = Cost.measured(trials, every, store, progress=told, until=budget.until(shares.timing), dense=dense)
        known = losses(trials, cost.measured_rungs, samples, store, prune, told, budget.until(shares.losses, of_left=0.25))
        tried_rungs = list(dict.fromkeys(rung for _, rung in known))
        maker = Maker(trials, cost, judge, store, samples, held, dense, prune, wanted)
        left_out = {**judge.left_out, **_left_out(every, tried_rungs, cost, rungs is not None)}
        share = shares.tries

        def make(assignment: Assignment) -> Tried | None:
            with suppress(OutOfTime), budget.timed(TRY):
                return maker(assignment, progress=lambda _: budget.require(0.0))
            return None

        looking = Search(
            _Rungs(cost, known, tried_rungs),
            _Wanted(wanted),
            make,
            go_on=lambda: budget.may(TRY, share),
            tell=lambda one: tell(told, one, looking),
        )
        looking.run()
        stopped = NOTHING if budget.may(TRY, share) else OVER
        if recover and budget.left > 0:
            recovering = Recovering(maker, budget, Repair.of(trials.graph, criterion, trials.dtypes), Path(folder) / FOLDER, told)
            why = _recovered(looking, recovering, wanted)
            if not any(one.recovered for one in looking.tried):
                left_out["recovery"] = why
            if why != OVER and stopped == OVER:
                share = 1.0
                looking.run()  # in the time that no recovery needs
            stopped = NOTHING if budget.may(TRY) and why != OVER else OVER
    return _found(wanted, maker, looking, stopped, budget.seconds, left_out)


def _recovered(looking: Search, recovering: Recovering, wanted: Goal) -> str:
    """Recovers what is worth it, and keeps the checkpoints of what is the best of all. Why it ended."""
    levels = [partial(_lost, condition) for condition in wanted.levels(_LOST) if condition.key in looking.tried[0].quality]
    aims = Aims(looking, recovering, lambda name: str(unrepaired(Rung.parse(name))), lambda one: wanted.lost(one.quality), levels)
    why = aims.run()
    front = [looking.tried[number] for number in _front(wanted, looking)]
    kept = front if looking.best is None else [*front, looking.best]
    recovering.forget([one for one in looking.tried if one.recovered], kept)
    return why


def _lost(condition: Condition, one: Tried) -> float:
    return condition.lost(one.quality)


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
    found = {f"rung {rung}": OVER for rung in late}
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
        """The layers of a group lose the same share, or nothing; those that are put on one rung are tied by it."""
        if (first := self._cost.trials.together.get(site)) is not None:
            return first, str(rung)
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


def _front(goal: Goal, looking: Search) -> list[int]:
    return goal.front((one.ms, one.quality) for one in looking.tried)


def _found(goal: Goal, maker: Maker, looking: Search, stopped: str, seconds: float, left_out: Mapping[str, str]) -> Found:
    points = {id(one): maker.point(one) for one in looking.tried}
    best = looking.best
    nearest = None if best is not None or goal.pareto else goal.nearest([one.quality for one in looking.tried])
    front = tuple(points[id(looking.tried[number])] for number in _front(goal, looking))
    chosen = None if best is None else points[id(best)]
    trials, every = maker.trials, tuple(points.values())
    return Found(
        goal, trials.name, trials.machine, every, chosen, nearest, front, stopped, seconds, maker.samples, left_out, trials.notes
    )  # fmt: skip
