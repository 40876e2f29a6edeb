from __future__ import annotations

import builtins
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.cost_model import CostModel, Samples, require_xgboost
from sparsecc.codegen.tuning.records import Hint, Outcome
from sparsecc.errors import UserError
from tests.codegen.tuning.tasks import DENSE, HERE, SPARSE, cost, us

SPACE = SPARSE.space(HERE)
ELSEWHERE = replace(HERE, cpu="znver9")


def known(task: Task, count: int = 200, seed: int = 0) -> dict[Knobs, Outcome]:
    return {knobs: us(cost(task, knobs)) for knobs in random.Random(seed).sample(task.space(HERE), count)}


def model(tasks: dict[Task, dict[Knobs, Outcome]], kernel: str, hints: tuple[Hint, ...] = ()) -> CostModel:
    return CostModel.of(HERE, Samples.of(HERE, tasks, kernel, hints))


def test_it_learns_from_other_tasks_of_the_kernel() -> None:
    """And ranks a task of which nothing is known."""
    tasks, other = {DENSE: known(DENSE)}, Task("dense_matmul", MatmulSpec.linear(3072, 768, 2, 64))
    ranked = model(tasks, "dense_matmul").rank(other, other.space(HERE))
    best = sorted(cost(other, knobs) for knobs in ranked)[len(ranked) // 10]
    assert sum(cost(other, knobs) <= best for knobs in ranked[:20]) >= 15
    assert not model(tasks, "row_block_spmm").trained
    assert model(tasks, "row_block_spmm").rank(SPARSE, SPACE) == SPACE, "of another kernel"


def test_it_predicts_by_how_much() -> None:
    """The log of the time over the task's best, of candidates that it has not seen."""
    seen = known(SPARSE)
    rest = [knobs for knobs in SPACE if knobs not in seen]
    fastest = min(outcome.us.median for outcome in seen.values() if outcome.us)
    actual = np.log([cost(SPARSE, knobs) / fastest for knobs in rest])
    assert np.abs(model({SPARSE: seen}, SPARSE.kernel).predict(SPARSE, rest) - actual).mean() < 0.05


def groups_of(knobs: Knobs) -> int:
    assert isinstance(knobs, Tiles)
    return knobs.groups


def test_what_failed_ranks_last() -> None:
    outcomes = {knobs: Outcome(None, "crashed") if groups_of(knobs) > 4 else us(100) for knobs in SPACE[::2]}
    ranked = model({SPARSE: outcomes}, "row_block_spmm").rank(SPARSE, SPACE)
    assert all(groups_of(knobs) <= 4 for knobs in ranked[: len(SPACE) // 4])


def test_the_same_twice_and_after_loading() -> None:
    first, second = (model({SPARSE: known(SPARSE)}, SPARSE.kernel) for _ in range(2))
    assert first.save() == second.save()
    loaded = CostModel.load(HERE, first.save())
    assert loaded.trained and loaded.predict(SPARSE, SPACE).tolist() == first.predict(SPARSE, SPACE).tolist()


def test_what_another_target_measured_counts_for_less() -> None:
    """Of two that contradict each other this machine's is believed; alone the other one's is better than nothing."""
    here, there = known(SPARSE), {knobs: us(1e4 / cost(SPARSE, knobs)) for knobs in known(SPARSE)}
    hint = Hint(ELSEWHERE, {SPARSE: there})

    def agrees(one: CostModel, with_: dict[Knobs, Outcome]) -> float:
        times = [outcome.us.median for outcome in with_.values() if outcome.us]
        return float(np.corrcoef(one.predict(SPARSE, list(with_)), np.log(times))[0, 1])

    assert agrees(model({SPARSE: here}, SPARSE.kernel, (hint,)), here) > 0.9
    assert agrees(model({}, SPARSE.kernel, (hint,)), there) > 0.9


def test_samples_say_how_many_and_change_with_what_they_are_of() -> None:
    few, hint = known(SPARSE, 8), Hint(ELSEWHERE, {SPARSE: known(SPARSE, 5), DENSE: known(DENSE, 3)})
    samples = Samples.of(HERE, {SPARSE: few, DENSE: known(DENSE, 3)}, SPARSE.kernel, (hint,))
    assert (samples.facts, samples.hints, samples.enough) == (8, 5, True)
    assert not Samples.of(HERE, {SPARSE: few}, SPARSE.kernel).enough
    assert Samples.of(HERE, {}, SPARSE.kernel, (hint, hint)).facts == 0
    digests = {
        one.digest
        for one in (
            samples,
            Samples.of(HERE, {SPARSE: few}, SPARSE.kernel, (hint,)),
            Samples.of(HERE, {SPARSE: few}, SPARSE.kernel),
            Samples.of(HERE, {SPARSE: known(SPARSE, 8, seed=1)}, SPARSE.kernel),
            Samples.of(HERE, {SPARSE: dict.fromkeys(few, us(3))}, SPARSE.kernel),
        )
    }
    assert len(digests) == 4, "another kernel's measurements change nothing"


def test_without_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *rest: Any, **options: Any) -> Any:
        if name == "xgboost":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(UserError, match=r"pip install 'sparsecc\[tune\]'"):
        require_xgboost()
