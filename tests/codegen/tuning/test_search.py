from __future__ import annotations

import random
from dataclasses import astuple

from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.cost_model import CostModel, Samples
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.tuning.search import children, propose
from tests.codegen.tuning.tasks import HERE, SPARSE, cost, us

SPACE = SPARSE.space(HERE)


def search(seed: int, rounds: int, task: Task = SPARSE) -> dict[Knobs, Outcome]:
    """Rounds of eight, each candidate costing what `cost` says and every seventh failing."""
    space, rng = task.space(HERE), random.Random(seed)
    outcomes: dict[Knobs, Outcome] = {}
    for _ in range(rounds):
        model = CostModel.of(HERE, Samples.of(HERE, {task: outcomes}, task.kernel))
        for knobs in propose(task, space, outcomes, model, 8, rng):
            assert knobs not in outcomes
            outcomes[knobs] = Outcome(None, "crashed") if len(outcomes) % 7 == 6 else us(cost(task, knobs))
    return outcomes


def test_the_first_guess_is_measured_first() -> None:
    assert list(search(0, 1)) == SPACE[:1]


def test_the_same_seed_proposes_the_same() -> None:
    assert list(search(1, 8)) == list(search(1, 8)) != list(search(2, 8))


def test_a_search_finds_what_is_among_the_best() -> None:
    """Among the best hundredth of the space, with a tenth of it measured."""
    found = min(outcome.us.median for outcome in search(0, len(SPACE) // 80 + 1).values() if outcome.us)
    assert found <= sorted(cost(SPARSE, knobs) for knobs in SPACE)[len(SPACE) // 100]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(1, 20))
def test_everything_is_measured_once_in_the_end(seed: int, count: int) -> None:
    space, rng, outcomes = SPACE[:40], random.Random(seed), {}
    model = CostModel.of(HERE, Samples.of(HERE, {}, "row_block_spmm"))
    while batch := propose(SPARSE, space, outcomes, model, count, rng):
        assert len(batch) <= count
        for knobs in batch:
            assert knobs not in outcomes
            outcomes[knobs] = us(cost(SPARSE, knobs))
    assert set(outcomes) == set(space)


def test_children() -> None:
    a, b = Tiles(16, 1, 8, 1), Tiles(32, 2, 16, 2)
    mutation, crossing, stranger = Tiles(16, 1, 8, 9), Tiles(16, 2, 8, 2), Tiles(16, 2, 9, 9)
    assert children([mutation, crossing, stranger], [a, b]) == [mutation, crossing]
    assert children([crossing], [a]) == []
    for child in children(SPACE, SPACE[:1]):
        assert sum(x != y for x, y in zip(astuple(child), astuple(SPACE[0]), strict=True)) == 1


def test_a_model_ranks_the_whole_space() -> None:
    """Children of the best alone would not reach the other end of it."""
    known = {knobs: us(cost(SPARSE, knobs)) for knobs in random.Random(0).sample(SPACE[1:], 200)}
    model = CostModel.of(HERE, Samples.of(HERE, {SPARSE: known}, SPARSE.kernel))
    batch = propose(SPARSE, SPACE, {SPACE[0]: us(cost(SPARSE, SPACE[0]))}, model, 8, random.Random(0))
    assert len(batch) == 8
    ranked = sorted(SPACE, key=lambda knobs: cost(SPARSE, knobs))
    assert sum(ranked.index(knobs) < len(SPACE) // 20 for knobs in batch) >= 5
