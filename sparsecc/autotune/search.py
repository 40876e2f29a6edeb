"""From a goal to rungs: choose, try the whole model, learn from it, choose again.

What is tried is the choice of least loss within a time (`choice`). How long that time is, the goal says: for a bound on the time it is this
bound, corrected by what models took that were tried; for a bound on quality it is found by bisection between a model that is good enough
and one that is not; for the frontier it is where its points lie farthest apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from sparsecc.autotune.choice import Assignment, Limits, Option, fastest, least_loss, total
from sparsecc.autotune.losses import Factors

_CLOSE = 1.02  # times that lie closer are one
_LEAST_GAP = 1.05  # between points of the frontier
_FEW = 6  # tries for a bound on the time
_ROUNDS = 4  # of choosing, until a choice is predicted to take no more than was asked for
_LEAST_ERROR = 1e-9  # that counts; the dense model has none


@dataclass(frozen=True)
class Tried:
    """A whole model. ms: of a call.  size: stored bytes.  error: relative squared error of its outputs.  quality: by metric.  recovered:
    whether its weights have learnt after they were pruned."""

    assignment: Assignment
    ms: float
    size: float
    error: float
    quality: Mapping[str, float]
    recovered: bool = False


class Space(Protocol):
    """What there is to choose from. rungs: their names.  dense: the one that changes nothing.  probes: rungs that are tried on all sites
    first, one of each kind: their losses are known then, and no choice is worse than a recipe with one pattern.  rest_ms: of a call,
    beside the sites."""

    @property
    def rungs(self) -> Sequence[str]: ...

    @property
    def dense(self) -> str: ...

    @property
    def probes(self) -> Sequence[str]: ...

    @property
    def rest_ms(self) -> float: ...

    def options(self) -> Sequence[Option]: ...

    def predict(self, assignment: Assignment) -> float:
        """ms of a call. It may be more or less than what options add up to, where sites share what is done for them."""
        ...

    def correct(self, tried: Tried) -> None:
        """Learn from how long a model took."""
        ...


class Wanted(Protocol):
    """Of a goal, what the search asks for. ms, size: bounds.  floor: whether quality is bounded.  pareto: whether all is wanted."""

    @property
    def ms(self) -> float | None: ...

    @property
    def size(self) -> float | None: ...

    @property
    def floor(self) -> bool: ...

    @property
    def pareto(self) -> bool: ...

    def good(self, tried: Tried) -> bool:
        """Whether the bounds on quality hold."""
        ...

    def better(self, one: Tried, other: Tried) -> bool:
        """Whether the first is to be preferred, both being within all bounds."""
        ...


@dataclass
class Search:
    """try_: makes a model, measures and judges it; None where the time was over before it was done.  go_on: whether there is
    time for another try.  tell: told of each."""

    space: Space
    wanted: Wanted
    try_: Callable[[Assignment], Tried | None]
    go_on: Callable[[], bool]
    tell: Callable[[Tried], None] = lambda _: None
    tried: list[Tried] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.factors = Factors(self.space.rungs)

    def run(self) -> list[Tried]:
        """All that was tried, the dense model first."""
        sites = dict.fromkeys(option.site for option in self.space.options())
        self._take(dict.fromkeys(sites, self.space.dense))
        for rung in self.space.probes:
            there = {option.site for option in self.space.options() if option.rung == rung}
            self._take({site: rung if site in there else self.space.dense for site in sites})
        if self.wanted.pareto:
            self._spread()
            return self.tried
        if self.wanted.ms is not None:
            self._within(self.wanted.ms)
        if self.wanted.floor:
            self._above()
        if self.wanted.ms is None and not self.wanted.floor:
            self._smallest()
        return self.tried

    @property
    def best(self) -> Tried | None:
        """Of those that are within all bounds the one to be preferred; None where none is, and where all of the frontier is wanted."""
        found: Tried | None = None
        if self.wanted.pareto:
            return None
        for one in self.tried:
            if self.holds(one) and (found is None or self.wanted.better(one, found)):
                found = one
        return found

    def holds(self, one: Tried) -> bool:
        """Whether it is within all bounds."""
        inside = (self.wanted.ms is None or one.ms <= self.wanted.ms) and (self.wanted.size is None or one.size <= self.wanted.size)
        return inside and self.wanted.good(one)

    def _within(self, ms: float) -> None:
        """As good as possible in this time."""
        aim = ms
        for _ in range(_FEW):
            chosen = self.chosen(aim)
            found = self._take(fastest(self.options()) if chosen is None else chosen)  # which may do where predictions are too long
            if found is None or ms / _CLOSE <= found.ms <= ms:
                return
            aim *= min(max(ms / found.ms, 0.5), 1.5) * (0.99 if found.ms > ms else 1.0)

    def _above(self) -> None:
        """As fast as possible with this quality: bisection of the time, of which every step chooses anew."""
        good, bad = min([one.ms for one in self.tried if self.holds(one)], default=self.tried[0].ms), self.least_ms()
        while bad * _CLOSE < good:
            middle = math.sqrt(good * bad)
            chosen = self.chosen(middle)
            found = None if chosen is None else self._known(chosen) or self._take(chosen)
            if found is None:
                return
            good, bad = (min(middle, found.ms), bad) if self.holds(found) else (good, middle)

    def _smallest(self) -> None:
        """As good as possible in so many bytes."""
        self._aimed(None)
        self._aimed(None)  # once more, with what was learned

    def _spread(self) -> None:
        """The frontier: first its ends, then where two neighbours lie farthest apart, in time and in error."""
        for share in (0.5, 0.25, 0.0, 0.75):
            if self._aimed(self.least_ms() + share * (self.tried[0].ms - self.least_ms())) is None and not self.go_on():
                return
        while any(self._aimed(gap) is not None for gap in self._gaps()):
            pass

    def _gaps(self) -> list[float]:
        """Times in the middle between neighbours on the frontier, the widest gaps first."""
        found: list[tuple[float, float]] = []
        for fast, slow in pairwise(frontier(self.tried)):
            if slow.ms > fast.ms * _LEAST_GAP:
                decades = math.log10(max(fast.error, _LEAST_ERROR) / max(slow.error, _LEAST_ERROR))
                found.append((math.log(slow.ms / fast.ms) * (1 + decades), math.sqrt(fast.ms * slow.ms)))
        return [ms for _, ms in sorted(found, reverse=True)]

    def least_ms(self) -> float:
        """That a model is predicted to take, the fastest rung on each site."""
        options = self.options()
        return self.space.rest_ms + total(options, fastest(options)).ms

    def _aimed(self, ms: float | None) -> Tried | None:
        """Tries what loses least in this time; None where nothing does, where it was tried before, or where there is no time."""
        chosen = self.chosen(ms)
        return None if chosen is None else self._take(chosen)

    def chosen(self, ms: float | None, options: Sequence[Option] | None = None) -> dict[str, str] | None:
        """What loses least in this time, by what is known now; None where nothing takes so little.  options: with other losses."""
        options, aim = self.options() if options is None else options, math.inf if ms is None else ms
        found = None
        for _ in range(_ROUNDS):
            limit = None if ms is None else aim - self.space.rest_ms
            chosen = least_loss(options, Limits(limit, self.wanted.size))
            if chosen is None:
                break
            found = chosen
            over = self.space.predict(chosen) - (math.inf if ms is None else ms)
            if over <= 0:
                break
            aim -= over
        return found

    def _known(self, assignment: Assignment) -> Tried | None:
        return next((one for one in self.tried if one.assignment == assignment and not one.recovered), None)

    def _take(self, assignment: Assignment) -> Tried | None:
        if self._known(assignment) is not None or (self.tried and not self.go_on()):
            return None
        found = self.try_(assignment)
        if found is not None:
            self.learn(found)
        return found

    def learn(self, found: Tried) -> None:
        """Takes a model up among those that were tried. Of one that was recovered the time says something of others, and the error does
        not."""
        self.tried.append(found)
        losses: dict[str, float] = {}
        for option in self.space.options():
            if found.assignment.get(option.site) == option.rung:
                losses[option.rung] = losses.get(option.rung, 0.0) + option.loss
        if not found.recovered:
            self.factors.add(losses, found.error)
        self.space.correct(found)
        self.tell(found)

    def options(self) -> list[Option]:
        """With losses as they are known by now."""
        factors = self.factors.of()
        return [replace(one, loss=one.loss * factors[one.rung]) for one in self.space.options()]


def frontier(tried: Sequence[Tried]) -> list[Tried]:
    """Those that none beats in both time and error, the fastest first."""
    found: list[Tried] = []
    for one in sorted((one for one in tried if math.isfinite(one.error)), key=lambda one: (one.ms, one.error)):
        if not found or one.error < found[-1].error:
            found.append(one)
    return found
