from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.autotune.choice import Limits, Option, fastest, least_loss, total

AMOUNT = st.integers(0, 30)
SITES = st.lists(st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT), min_size=1, max_size=4), min_size=1, max_size=4)


def options_of(sites: list[list[tuple[int, int, int]]]) -> list[Option]:
    return [Option(f"s{i}", f"r{j}", *map(float, amounts)) for i, rungs in enumerate(sites) for j, amounts in enumerate(rungs)]


@settings(max_examples=60, deadline=None)
@given(SITES, st.integers(0, 90), st.integers(0, 90))
def test_it_is_the_best_of_all(sites: list[list[tuple[int, int, int]]], ms: int, size: int) -> None:
    options = options_of(sites)
    sums = [tuple(map(sum, zip(*rungs, strict=True))) for rungs in itertools.product(*sites)]
    inside = [loss for time, weight, loss in sums if time <= ms and weight <= size]
    found = least_loss(options, Limits(ms, size))
    assert (found is None) == (not inside)
    if found is not None:
        taken = total(options, found)
        assert taken.ms <= ms and taken.size <= size and abs(taken.loss - min(inside)) <= 0.002 * max(inside)
        assert set(found) == {f"s{i}" for i in range(len(sites))}


def test_of_equal_losses_the_faster() -> None:
    options = [Option("a", "slow", 2, 1, 0), Option("a", "fast", 1, 1, 0)]
    assert least_loss(options, Limits()) == {"a": "fast"} == fastest(options)


def test_nothing_to_choose() -> None:
    assert least_loss([], Limits(1.0)) == {}
