"""Which assignments are worth recovering: those that, by what recoveries left of the error so far, come out better than all that was made.

An assignment's loss has two parts. What number formats cost stays as it is; of what pruning cost, recovery leaves a share. The share is
learned from each model that was recovered, and each aim is chosen anew with it: for a bound on quality the fastest choice that is predicted
to be good enough, for a bound on time or bytes the best one within it, for the frontier the times at which it gains most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sparsecc.autotune.choice import Assignment, Option, total
from sparsecc.autotune.search import Search, Tried

NOTHING = "nothing better was left to try"
_HALVINGS = 7  # of a range of times, on a logarithmic scale
_GRID = 12  # times at which the frontier is looked at
_GAIN = 1.15  # by which an error has to fall, so that it is worth a recovery
_SAFE = 0.98  # of the error that is predicted to be small enough
_LITTLE = 0.02  # lost of quality, below which noise says more than the model
_SPARED = (1.0, 0.9, 0.8, 0.65)  # of that error: how much of it is aimed at
_CLOSE = 1.02  # times that lie closer are one
_APART = 0.1  # of the logarithm of times: a point of the frontier that is nearer to a recovered one counts for less
_WEIGHT = 0.7  # of the latest recovery in what is expected of the next
_HOPES = (1.0, 0.4, 0.15)  # of what is expected, before anything is known
_LEAST, _LEAST_ERROR = 0.01, 1e-9
Lost = Callable[[Tried], float]


class Recover(Protocol):
    """Makes the recovered model of an assignment; None where there is no time for it. stopped: why.  expected: the share of the squared
    error of pruning that the next is expected to leave; given an assignment, it may find out more by it."""

    def expected(self, assignment: Assignment | None = None) -> float: ...

    @property
    def stopped(self) -> str: ...

    def __call__(self, assignment: Assignment) -> Tried | None: ...


@dataclass
class Aims:
    """search: after its last try; recovered models are added to it.  recover: makes one.  unrepaired: rung → that whose loss no recovery
    mends; itself where there is nothing to recover.  lost: what a model loses, in parts of what the bounds on quality allow it to lose; 0
    where there are none.  levels: the same for bounds that a frontier is aimed at first, one after another: where nobody says what quality
    is needed, a little that is lost matters more than much."""

    search: Search
    recover: Recover
    unrepaired: Callable[[str], str]
    lost: Lost
    levels: Sequence[Lost] = ()
    _observed: float | None = field(default=None, init=False)  # what was left, in parts of what was expected
    _hope: float = field(default=1.0, init=False)

    def run(self) -> str:
        """Why it ended."""
        while (aim := self.next()) is not None:
            before, expected = self.recover.expected(), self.recover.expected(aim)
            if expected != before:  # how long steps take is known by now, and so how many there are
                aim = self.next() or aim
            found = self.recover(aim)
            if found is None:
                return self.recover.stopped
            self._observe(found, expected)
            self.search.learn(found)
        return NOTHING

    @property
    def kept(self) -> float:
        """The share of the squared error of pruning that the next recovery is expected to leave."""
        return self.recover.expected() * (self._hope if self._observed is None else self._observed)

    def next(self) -> Assignment | None:
        """What is recovered next; None where nothing is worth it. Before the first recovery it may leave less than is expected."""
        for hope in (1.0,) if self._observed is not None else _HOPES:
            self._hope = hope
            wanted = self.search.wanted
            aims = self._front() if wanted.pareto else self._fastest(self.lost) if wanted.floor else self._best(wanted.ms)
            done = [one.assignment for one in self.search.tried if one.recovered]
            for aim in aims:
                if aim not in done and self._repairable(aim):
                    return aim
        return None

    def options(self) -> list[Option]:
        """With losses as they are after recovery."""
        return [replace(one, loss=stays + self.kept * (one.loss - stays)) for one, stays in self._staying()]

    def _staying(self) -> list[tuple[Option, float]]:
        """All options, and what no recovery takes off their losses."""
        options = self.search.options()
        known = {(one.site, one.rung): one.loss for one in options}
        return [(one, min(known.get((one.site, self.unrepaired(one.rung)), 0.0), one.loss)) for one in options]

    def _repairable(self, assignment: Assignment) -> bool:
        return any(self.unrepaired(rung) != rung for rung in assignment.values())

    def _observe(self, found: Tried, expected: float) -> None:
        """Errors add up: what was measured is what stays, and a share of the rest. expected: of that share."""
        taken = [(one.loss, stays) for one, stays in self._staying() if found.assignment.get(one.site) == one.rung]
        stays = sum(stays for _, stays in taken)
        pruned = sum(loss for loss, _ in taken) - stays
        if pruned > 0 and math.isfinite(found.error):
            seen = min(max((found.error - stays) / pruned, _LEAST), 2.0) / expected
            self._observed = seen if self._observed is None else self._observed ** (1 - _WEIGHT) * seen**_WEIGHT

    def _largest_error(self, lost: Lost) -> float:
        """Up to which models are predicted to be good enough: what is lost of quality grows with the error, from nothing. Counted from the
        model that is nearest to the bound."""
        known = [(max(share, _LITTLE), one.error) for one in self.search.tried if one.error and math.isfinite(share := lost(one))]
        if not known or not any(map(lost, self.search.tried)):
            return math.inf
        share, error = min(known, key=lambda one: abs(math.log(one[0])))
        return max([_SAFE * error / share, *(one.error for one in self.search.tried if lost(one) <= 1)])

    def _fastest(self, lost: Lost) -> Iterator[Assignment]:
        """The fastest that is good enough, unless one that was made is as fast, by what is predicted of both; then those that are predicted
        to have something to spare, since the first may have been made, and missed the bound by little."""
        options, largest, predict = self.options(), self._largest_error(lost), self.search.space.predict
        held = (one for one in self.search.tried if self.search.holds(one) and lost(one) <= 1)
        made = min((predict(one.assignment) for one in held), default=math.inf)
        start = min(made, self.search.tried[0].ms, self.search.wanted.ms or math.inf)
        for spared in _SPARED:
            slow, fast, found = start, self.search.least_ms(), None
            for _ in range(_HALVINGS):
                middle = math.sqrt(slow * fast)
                chosen = self.search.chosen(middle, options)
                if chosen is None or total(options, chosen).loss > spared * largest:
                    fast = middle
                else:
                    slow, found = middle, chosen
            if found is not None and predict(found) * _CLOSE < made:
                yield found

    def _best(self, ms: float | None) -> Iterator[Assignment]:
        """The best in a time, in somewhat less where a model took longer than it was predicted to; and those that were tried and hold."""
        best, options = self.search.best, self.options()
        over = max((one.ms / ms for one in self.search.tried if ms is not None and one.recovered), default=1.0)
        chosen = self.search.chosen(None if ms is None else ms / max(over, 1.0), options)
        held = [one.assignment for one in self.search.tried if self.search.holds(one)]
        aims = [(total(options, one).loss, one) for one in [*([] if chosen is None else [chosen]), *held]]
        for loss, aim in sorted(aims, key=lambda aim: aim[0]):
            if best is None or loss * _GAIN < best.error:
                yield aim

    def _front(self) -> Iterator[Assignment]:
        """The fastest at each of the levels, those first that no recovered model holds; then choices at times spread over the frontier,
        those first by which the error falls most at their time."""
        recovered = [one for one in self.search.tried if one.recovered]
        for lost in sorted(self.levels, key=lambda lost: any(lost(one) <= 1 for one in recovered)):
            yield from self._fastest(lost)
        options, largest = self.options(), self._largest_error(self.lost)
        fast, slow = self.search.least_ms(), self.search.tried[0].ms
        done = [one.ms for one in self.search.tried if one.recovered]
        found: list[tuple[float, Assignment]] = []
        for place in range(_GRID if fast < slow else 0):
            ms = fast * (slow / fast) ** (place / _GRID)
            chosen = self.search.chosen(ms, options)
            error = math.inf if chosen is None else total(options, chosen).loss
            if chosen is None or error > largest:
                continue
            gain = self._error_at(ms) / max(error, _LEAST_ERROR)
            near = min((abs(math.log(ms / other)) for other in done), default=math.inf)
            if gain > _GAIN:
                found.append((math.log(gain) * min(near / _APART, 1.0), chosen))
        yield from (chosen for _, chosen in sorted(found, key=lambda one: -one[0]))

    def _error_at(self, ms: float) -> float:
        """The least error of a good model that takes no longer; that of outputs that are zero where there is none."""
        return min((one.error for one in self.search.tried if self.lost(one) <= 1 and one.ms <= ms * _CLOSE), default=1.0)
