from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.autotune.choice import Limits, Option, fastest, least_loss, total

AMOUNT = st.integers(0, 30)
SITES = st.lists(st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT), min_size=1, max_size=4), min_size=1, max_size=4)


def options_of(sites: list[list[tuple[int, int, int]]]) -> list[Option]:
    return [Option(f"s{i}", f"r{j}", ms, size, loss) for i, rungs in enumerate(sites) for j, (ms, size, loss) in enumerate(rungs)]


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


GROUPED = st.lists(  # groups of sites, of which each has options at levels: amounts, and at which level
    st.lists(st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT, st.integers(0, 2)), min_size=1, max_size=4), min_size=1, max_size=3),
    min_size=1,
    max_size=2,
)


def tied_of(groups: list[list[list[tuple[int, int, int, int]]]]) -> list[Option]:
    """All sites have an option without a level beside those given, so that there is a choice."""
    return [
        Option(f"g{g}s{s}", f"r{r}", ms, size, loss, tied=(f"g{g}", str(level)))
        for g, sites in enumerate(groups)
        for s, rungs in enumerate(sites)
        for r, (ms, size, loss, level) in enumerate([*rungs, (30, 30, 0, 0)])
    ]


def all_choices(options: list[Option]) -> list[tuple[Option, ...]]:
    """In which all sites of a group are at one level."""
    by_site: dict[str, list[Option]] = {}
    for option in options:
        by_site.setdefault(option.site, []).append(option)
    every = itertools.product(*by_site.values())
    return [one for one in every if len({option.tied for option in one}) == len({option.tied[0] for option in one if option.tied})]


@settings(max_examples=60, deadline=None)
@given(GROUPED, st.integers(0, 120), st.integers(0, 120))
def test_ties_are_kept_and_it_is_the_best_of_all(groups: list[list[list[tuple[int, int, int, int]]]], ms: int, size: int) -> None:
    options = tied_of(groups)
    choices = all_choices(options)
    sums = [tuple(sum(getattr(option, name) for option in one) for name in ("ms", "size", "loss")) for one in choices]
    inside = [loss for time, weight, loss in sums if time <= ms and weight <= size]
    found = least_loss(options, Limits(ms, size))
    assert (found is None) == (not inside)
    if found is not None:
        taken = total(options, found)
        assert taken.ms <= ms and taken.size <= size and abs(taken.loss - min(inside)) <= 0.002 * max(inside)
        assert found in [{option.site: option.rung for option in one} for one in choices]
    quick = fastest(options)
    assert quick in [{option.site: option.rung for option in one} for one in choices]
    assert total(options, quick).ms == min(time for time, _, _ in sums)


def test_a_level_that_one_site_does_not_have_is_no_choice() -> None:
    options = [
        Option("a", "dense", 9, 1, 0, ("g", "")),
        Option("a", "narrow", 1, 1, 0, ("g", "25%")),
        Option("b", "dense", 9, 1, 0, ("g", "")),
        Option("c", "dense", 9, 1, 0),
        Option("c", "int8", 1, 1, 0),
    ]
    assert least_loss(options, Limits()) == fastest(options) == {"a": "dense", "b": "dense", "c": "int8"}
