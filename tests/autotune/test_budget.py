"""A fake clock: work moves it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sparsecc.autotune.budget import TRY, Budget, OutOfTime


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("lasts", [0.5, 3.0, 11.0])
def test_work_of_one_kind_ends_in_time_and_uses_most_of_it(lasts: float) -> None:
    clock = Clock()
    budget, done = Budget(1.0, clock), 0
    while budget.may(TRY):
        with budget.timed(TRY):
            clock.now += lasts
        done += 1
    assert budget.seconds + budget.lasted[TRY] <= 60.0  # the chosen model is compiled once more
    assert done * lasts > 60 - 3.5 * lasts


def test_a_share_of_the_time() -> None:
    clock = Clock()
    budget = Budget(2.0, clock)
    assert budget.until(0.25) == 130.0 and budget.left == 120.0
    assert budget.until(0.25, of_left=0.5) == 160.0 and budget.until(0.75, of_left=0.5) == 190.0
    clock.now = 129.0
    assert budget.may(TRY, 0.25)
    budget.lasted[TRY] = 1.0
    assert not budget.may(TRY, 0.25) and budget.may(TRY, 0.5)


def test_work_that_was_broken_off_says_nothing_of_the_next() -> None:
    clock = Clock()
    budget = Budget(1.0, clock)
    with pytest.raises(OutOfTime), budget.timed(TRY):
        clock.now += 61
        budget.require(0.0)
    assert budget.lasted == {} and not budget.may(TRY)
