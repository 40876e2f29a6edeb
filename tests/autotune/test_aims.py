"""Which assignments are recovered, on the model of `test_search`, of which recoveries mend a known share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sparsecc.autotune.aims import NOTHING, Aims
from sparsecc.autotune.choice import Assignment
from sparsecc.autotune.search import Search, Tried, frontier
from tests.autotune.test_search import REAL, Made, Wish

MENDED = ("half", "tenth")  # int8 stays as it is


@dataclass
class Mending:
    """Leaves a share of the error of what was pruned. count: how many models there is time for."""

    made: Made
    share: float
    count: int = 20
    stopped: str = "the time was over"
    asked: list[Assignment] = field(default_factory=list)

    def expected(self, assignment: Assignment | None = None) -> float:
        return 0.5

    def __call__(self, assignment: Assignment) -> Tried | None:
        if len(self.asked) == self.count:
            return None
        self.asked.append(assignment)
        one = self.made.real(assignment)
        gains = self.made.sites
        error = sum(gains[s][1] * REAL[r] * (self.share if r in MENDED else 1.0) for s, r in assignment.items())
        return Tried(assignment, one.ms, one.size, error, {"cosine": 1 - error / 2}, recovered=True)


def lost(cosine: float | None) -> Callable[[Tried], float]:
    return lambda one: 0.0 if cosine is None else (1 - one.quality["cosine"]) / (1 - cosine)


def asked(looking: Aims) -> int:
    assert isinstance(looking.recover, Mending)
    return len(looking.recover.asked)


def aims(wish: Wish, share: float = 0.1, count: int = 20, least: float | None = None) -> Aims:
    made = Made()
    search = Search(made, wish, made.real, lambda: len(search.tried) < 14)
    search.run()
    return Aims(search, Mending(made, share, count), lambda rung: "dense" if rung in MENDED else rung, lost(least or wish.cosine))


@pytest.mark.parametrize(("cosine", "share"), [(0.9995, 0.02), (0.9995, 0.1), (0.9995, 0.4), (0.99, 0.02), (0.99, 0.1)])
def test_a_bound_on_quality_is_met_faster(cosine: float, share: float) -> None:
    looking = aims(Wish(cosine=cosine), share)
    before = looking.search.best
    assert looking.run() == NOTHING
    best = looking.search.best
    assert before is not None and best is not None and best.recovered
    assert best.quality["cosine"] >= cosine and best.ms < before.ms
    assert asked(looking) <= 8


def test_a_recovery_that_mends_nothing_is_not_repeated_for_long() -> None:
    looking = aims(Wish(cosine=0.99), share=1.0)
    before = looking.search.best
    assert looking.run() == NOTHING and looking.search.best is not None and before is not None
    assert looking.search.best.ms <= before.ms and asked(looking) <= 4


def test_a_bound_is_aimed_at_before_any_model_misses_it() -> None:
    """Nothing but int8 was tried: its loss, and how much of what is allowed that is, say how large an error may be."""
    looking = aims(Wish(cosine=0.99), share=0.5)
    del looking.search.tried[2:]
    assert looking._largest_error(looking.lost) == pytest.approx(2 * (1 - 0.99), rel=0.03)
    looking.search.tried.pop()
    assert looking._largest_error(looking.lost) == math.inf  # the dense model says nothing


def test_one_that_misses_by_little_is_followed_by_one_with_something_to_spare() -> None:
    looking = aims(Wish(cosine=0.99), share=0.5)
    first, largest = looking.next(), looking._largest_error(looking.lost)
    assert first is not None
    predicted = looking.search.space.predict
    looking.search.tried.append(Tried(first, predicted(first), 1.0, 1.005 * largest / 0.98, {"cosine": 0.98995}, recovered=True))
    second = looking.next()
    assert second is not None and second != first and predicted(second) > predicted(first)


def test_the_best_in_a_time() -> None:
    dense = Made().real(dict.fromkeys(Made().sites, "dense"))
    looking = aims(Wish(ms=0.4 * dense.ms))
    before = looking.search.best
    looking.run()
    best = looking.search.best
    assert before is not None and best is not None and best.recovered
    assert best.ms <= 0.4 * dense.ms and best.error < before.error


def test_the_best_in_so_many_bytes() -> None:
    dense = Made().real(dict.fromkeys(Made().sites, "dense"))
    looking = aims(Wish(size=0.25 * dense.size))
    before = looking.search.best
    looking.run()
    best = looking.search.best
    assert before is not None and best is not None and best.recovered
    assert best.size <= 0.25 * dense.size and best.error < before.error


def test_a_front_gets_better_where_it_gains_most_first() -> None:
    looking = aims(Wish(pareto=True), count=3)
    before = frontier(looking.search.tried)
    assert looking.run() == "the time was over"
    recovered = [one for one in looking.search.tried if one.recovered]
    after = frontier(looking.search.tried)
    assert len(recovered) == 3 and all(one in after for one in recovered)
    times = sorted(one.ms for one in recovered)
    assert all(later / sooner > 1.05 for sooner, later in itertools.pairwise(times))
    first = recovered[0]
    there = min(one.error for one in before if one.ms <= first.ms * 1.02)
    assert first.error < 0.5 * there


def test_a_front_is_aimed_at_where_little_is_lost_first() -> None:
    looking = aims(Wish(pareto=True), share=0.3, count=2)
    looking.levels = (lost(0.999), lost(0.99))
    looking.run()
    first, second = (one for one in looking.search.tried if one.recovered)
    assert 0.9985 <= first.quality["cosine"] < 0.9999 and 0.985 <= second.quality["cosine"] < first.quality["cosine"]
    assert second.ms < first.ms


def test_what_was_learned_of_one_recovery_is_scaled_to_the_steps_of_the_next() -> None:
    looking = aims(Wish(cosine=0.99), share=0.25, count=1)
    looking.run()
    before = looking.kept
    looking.recover.expected = lambda assignment=None: 0.8  # type: ignore[method-assign]
    assert before < 0.4 and looking.kept == pytest.approx(before * 0.8 / 0.5)


def test_the_choice_is_made_anew_when_steps_turn_out_to_do_more() -> None:
    looking, known = aims(Wish(cosine=0.99), share=0.1, count=1), list[float]()

    def expected(assignment: Assignment | None = None) -> float:
        known.extend([0.1] if assignment is not None else [])
        return known[-1] if known else 0.9

    looking.recover.expected = expected  # type: ignore[method-assign]
    first = looking.next()
    looking.run()
    assert isinstance(looking.recover, Mending) and looking.recover.asked[0] != first


def test_points_of_a_front_have_to_be_good_enough() -> None:
    looking = aims(Wish(pareto=True), count=4, least=0.99)
    looking.run()
    recovered = [one for one in looking.search.tried if one.recovered]
    assert recovered and sum(one.quality["cosine"] >= 0.99 for one in recovered) >= len(recovered) / 2


def test_nothing_that_can_be_mended() -> None:
    looking = aims(Wish(cosine=0.99))
    looking.unrepaired = lambda rung: rung
    assert looking.next() is None and looking.run() == NOTHING


def test_errors_of_recovered_models_do_not_change_what_others_cost() -> None:
    looking = aims(Wish(cosine=0.99))
    before = looking.search.factors.of()
    looking.run()
    assert looking.search.factors.of() == before
