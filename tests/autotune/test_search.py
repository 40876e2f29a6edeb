"""The loop, on a model whose times and errors are formulas."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from sparsecc.autotune.choice import Assignment, Option
from sparsecc.autotune.search import Search, Tried, frontier

TIMES = {"dense": 1.0, "int8": 0.35, "half": 0.6, "tenth": 0.2}
ERRORS = {"dense": 0.0, "int8": 1e-4, "half": 2e-4, "tenth": 3e-2}
REAL = {"dense": 0.0, "int8": 3e-4, "half": 1e-4, "tenth": 2e-2}  # what the predictions do not know


@dataclass
class Made:
    """Sites of different sizes and gains. off: real over predicted times."""

    off: float = 1.0
    rungs: Sequence[str] = tuple(TIMES)
    dense: str = "dense"
    probes: Sequence[str] = ("int8", "half")
    rest_ms: float = 2.0
    sites: dict[str, tuple[float, float]] = field(default_factory=dict)
    corrections: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(0)
        self.sites = {f"s{i}": (rng.uniform(0.2, 2), rng.uniform(0.1, 5)) for i in range(12)}

    def options(self) -> list[Option]:
        return [
            Option(site, rung, ms * TIMES[rung], ms * 100 * TIMES[rung], gain * ERRORS[rung])
            for site, (ms, gain) in self.sites.items()
            for rung in TIMES
        ]

    def predict(self, assignment: Assignment) -> float:
        """One rung shares something among its sites."""
        shared = 0.05 * sum(rung == "int8" for rung in assignment.values())
        return self.rest_ms + shared + sum(self.sites[site][0] * TIMES[rung] for site, rung in assignment.items())

    def correct(self, tried: Tried) -> None:
        self.corrections += 1

    def real(self, assignment: Assignment) -> Tried:
        ms = self.rest_ms + sum(self.sites[site][0] * TIMES[rung] for site, rung in assignment.items())
        error = sum(self.sites[site][1] * REAL[rung] for site, rung in assignment.items())
        size = sum(self.sites[site][0] * 100 * TIMES[rung] for site, rung in assignment.items())
        return Tried(assignment, ms * self.off, size, error, {"cosine": 1 - error / 2})


@dataclass
class Wish:
    ms: float | None = None
    size: float | None = None
    cosine: float | None = None
    pareto: bool = False

    @property
    def floor(self) -> bool:
        return self.cosine is not None

    def good(self, tried: Tried) -> bool:
        return self.cosine is None or tried.quality["cosine"] >= self.cosine

    def better(self, one: Tried, other: Tried) -> bool:
        return one.ms < other.ms if self.cosine is not None else one.error < other.error


def run(wish: Wish, tries: int = 14, off: float = 1.0) -> Search:
    made = Made(off)
    search = Search(made, wish, made.real, lambda: len(search.tried) < tries)
    search.run()
    assert search.tried[0].error == 0 and len(search.tried) <= tries and made.corrections == len(search.tried)
    return search


@pytest.mark.parametrize("cosine", [0.9995, 0.995, 0.97])
def test_the_fastest_that_is_good_enough(cosine: float) -> None:
    best = run(Wish(cosine=cosine)).best
    assert best is not None and best.quality["cosine"] >= cosine and best.ms < run(Wish()).tried[0].ms
    looser = run(Wish(cosine=cosine - 0.02)).best
    assert looser is not None and looser.ms <= best.ms


@pytest.mark.parametrize("off", [0.8, 1.0, 1.3])
def test_the_best_in_a_time_that_predictions_miss(off: float) -> None:
    dense = Made(off).real(dict.fromkeys(Made().sites, "dense"))
    limit = 0.5 * dense.ms
    best = run(Wish(ms=limit), off=off).best
    assert best is not None and 0.9 * limit <= best.ms <= limit


def test_bytes() -> None:
    dense = Made().real(dict.fromkeys(Made().sites, "dense"))
    search = run(Wish(size=0.4 * dense.size))
    assert search.best is not None and search.best.size <= 0.4 * dense.size


def test_the_frontier_is_covered() -> None:
    front = frontier(run(Wish(pareto=True), tries=16).tried)
    assert len(front) >= 8
    gaps = [slow.ms / fast.ms for fast, slow in itertools.pairwise(front)]
    assert max(gaps) < 1.35
    uniform = [Made().real(dict.fromkeys(Made().sites, rung)) for rung in TIMES]
    for one in uniform:  # none of them is ahead of the frontier
        assert any(point.ms <= one.ms * 1.02 and point.error <= one.error * 1.1 for point in front) or one.error < front[-1].error


def test_a_bound_on_time_and_on_quality_asks_for_the_fastest() -> None:
    dense = Made().real(dict.fromkeys(Made().sites, "dense"))
    search = run(Wish(ms=0.9 * dense.ms, cosine=0.99), tries=20)
    alone = run(Wish(cosine=0.99), tries=20)
    assert search.best is not None and alone.best is not None and search.best.ms < 1.1 * alone.best.ms


def test_a_goal_that_cannot_be_met() -> None:
    search = run(Wish(ms=0.5))
    assert search.best is None and min(one.ms for one in search.tried) < 0.5 * search.tried[0].ms


def test_it_learns_which_rung_costs_more() -> None:
    """int8 is three times worse than predicted, half twice as good: what is chosen for a bound gets better by trying."""
    search = run(Wish(cosine=0.9995))
    factors = search.factors.of()
    assert factors["int8"] > 1.5 * factors["half"]


@pytest.mark.parametrize("wish", [Wish(cosine=0.99), Wish(ms=8.0), Wish(size=500.0), Wish(pareto=True)])
def test_the_time_is_over_in_the_middle_of_a_try(wish: Wish) -> None:
    made = Made()
    over: list[Assignment] = []

    def real(assignment: Assignment) -> Tried | None:
        if len(search.tried) < 3:
            return made.real(assignment)
        over.append(assignment)
        return None

    search = Search(made, wish, real, lambda: not over)
    assert len(search.run()) == 3 and len(over) == 1
