"""Which candidates to measure next: children of the best so far and random ones, ranked by a model of what was measured."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from sparsecc.codegen.backend import tunable
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.records import Hint, Outcome
from sparsecc.errors import UserError

Outcomes = Mapping[Knobs, Outcome]
_ROUNDS = 60
_PARAMETERS = {"objective": "reg:squarederror", "max_depth": 5, "eta": 0.15, "subsample": 0.8, "nthread": 1, "seed": 0, "verbosity": 0}
_ENOUGH = 12  # measurements below which there is nothing to learn from
_FAILED = 2.0  # log of a failed candidate's time over the best one's
_HINT = 0.25  # weight of what was measured for another target
_PARENTS = 6
_RANDOM_SHARE = 0.25  # of each batch, so that the model sees what it does not believe in


class CostModel:
    """log(time / best time of the task), learned from every task of one kernel on one target; and, for less, from those on others."""

    def __init__(self, target: Target, tasks: Mapping[Task, Outcomes], kernel: str, hints: Sequence[Hint] = ()) -> None:
        self._target = target
        rows, labels, weights = [], [], []
        for source, known, weight in ((target, tasks, 1.0), *((hint.target, hint.tasks, _HINT) for hint in hints)):
            for task, outcomes in known.items():
                best = min((o.us.median for o in outcomes.values() if o.us), default=None)
                if task.kernel == kernel and best is not None:
                    rows += [tunable(source).features(task, knobs, source) for knobs in outcomes]
                    labels += [np.log(o.us.median / best) if o.us else _FAILED for o in outcomes.values()]
                    weights += [weight] * len(outcomes)
        self._booster = self._train(rows, labels, weights) if len(rows) >= _ENOUGH else None

    @staticmethod
    def _train(rows: list[list[float]], labels: list[float], weights: list[float]) -> Any:
        xgboost = require_xgboost()
        return xgboost.train(_PARAMETERS, xgboost.DMatrix(np.array(rows), np.array(labels), weight=np.array(weights)), _ROUNDS)

    def rank(self, task: Task, candidates: Sequence[Knobs]) -> list[Knobs]:
        """Most promising first; as they came before there is enough to learn from."""
        if self._booster is None or not candidates:
            return list(candidates)
        rows = np.array([tunable(self._target).features(task, knobs, self._target) for knobs in candidates])
        predicted = self._booster.predict(require_xgboost().DMatrix(rows))
        return [candidates[i] for i in np.argsort(predicted, kind="stable")]


def propose(task: Task, space: Sequence[Knobs], outcomes: Outcomes, model: CostModel, count: int, rng: random.Random) -> list[Knobs]:
    """Up to `count` candidates that were not measured, most promising first; none when all were. The first guess is always the first."""
    untried = [knobs for knobs in space if knobs not in outcomes]
    if untried and untried[0] == space[0]:
        return untried[:1]
    if len(untried) <= count:
        return model.rank(task, untried)
    parents = sorted((knobs for knobs, o in outcomes.items() if o.us), key=lambda knobs: outcomes[knobs].us.median)[:_PARENTS]  # type: ignore[union-attr]
    ranked = model.rank(task, [*children(untried, parents), *rng.sample(untried, min(len(untried), 4 * count))])
    chance = rng.sample(untried, max(1, round(count * _RANDOM_SHARE)))
    return list(dict.fromkeys([*dict.fromkeys(ranked)][: count - len(chance)] + chance))


def children(untried: Iterable[Knobs], parents: Sequence[Knobs]) -> list[Knobs]:
    """Those that differ from one parent in one knob (mutations), or have each knob from one of two parents (crossings)."""
    rows = [astuple(parent) for parent in parents]
    found = []
    for knobs in untried:
        differences = [{i for i, (a, b) in enumerate(zip(astuple(knobs), row, strict=True)) if a != b} for row in rows]
        mutation = any(len(difference) == 1 for difference in differences)
        if mutation or any(not (a & b) for i, a in enumerate(differences) for b in differences[:i]):
            found.append(knobs)
    return found


def require_xgboost() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import xgboost
    except ImportError:
        raise UserError("tuning ranks candidates with xgboost, which is not installed; pip install 'sparsecc[tune]'") from None
    return xgboost
