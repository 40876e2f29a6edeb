"""How long candidates take that were not measured: gradient-boosted trees over what was, for one kernel on one target.

Trees learn from every task of the kernel, those of other models and, for less, those on other targets among them. Features are what a
backend says of a candidate (`TunableBackend.features`). The same samples give the same model, to the byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sparsecc.codegen.backend import tunable
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.records import Hint, Outcome
from sparsecc.errors import UserError

Tasks = Mapping[Task, Mapping[Knobs, Outcome]]
_ROUNDS = 60
_PARAMETERS = {"objective": "reg:squarederror", "max_depth": 5, "eta": 0.15, "subsample": 0.8, "nthread": 1, "seed": 0, "verbosity": 0}
_ENOUGH = 12  # measurements below which there is nothing to learn from
_FAILED = 2.0  # log of a failed candidate's time over the best one's
_HINT = 0.25  # weight of what was measured for another target


@dataclass(frozen=True)
class Samples:
    """What a model learns from. rows: features [n, f].  labels: log(time / best time of the task).  facts, hints: how many were measured
    for the model's own target, and for others."""

    rows: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    facts: int
    hints: int

    @staticmethod
    def of(target: Target, tasks: Tasks, kernel: str, hints: Sequence[Hint] = ()) -> Samples:
        """In an order of their own: it is the same however they were measured."""
        found: list[tuple[list[float], float, float]] = []
        for source, known, weight in ((target, tasks, 1.0), *((hint.target, hint.tasks, _HINT) for hint in hints)):
            for task, outcomes in known.items():
                best = min((outcome.us.median for outcome in outcomes.values() if outcome.us), default=None)
                if task.kernel != kernel or best is None:
                    continue
                for knobs, outcome in outcomes.items():
                    label = float(np.log(outcome.us.median / best)) if outcome.us else _FAILED
                    found.append((tunable(source).features(task, knobs, source), label, weight))
        facts = sum(weight == 1 for *_, weight in found)
        rows, labels, weights = zip(*sorted(found), strict=True) if found else ((), (), ())
        return Samples(np.array(rows), np.array(labels), np.array(weights), facts, len(found) - facts)

    @cached_property
    def digest(self) -> str:
        """Changes with whatever would change the model."""
        found = hashlib.sha256(f"{require_xgboost().__version__} {_PARAMETERS} {_ROUNDS}".encode())
        for array in (self.rows, self.labels, self.weights):
            found.update(f"{array.shape}".encode() + array.tobytes())
        return found.hexdigest()

    @property
    def enough(self) -> bool:
        return self.facts + self.hints >= _ENOUGH


class CostModel:
    """Ranks candidates of a kernel; in the order in which they come while there is nothing to learn from."""

    def __init__(self, target: Target, booster: Any | None) -> None:
        self._target, self._booster = target, booster

    @staticmethod
    def of(target: Target, samples: Samples) -> CostModel:
        if not samples.enough:
            return CostModel(target, None)
        xgboost = require_xgboost()
        data = xgboost.DMatrix(samples.rows, samples.labels, weight=samples.weights)
        return CostModel(target, xgboost.train(_PARAMETERS, data, _ROUNDS))

    @staticmethod
    def load(target: Target, raw: bytes) -> CostModel:
        """What `save` gave, and nothing else."""
        booster = require_xgboost().Booster({"nthread": 1})
        booster.load_model(bytearray(raw))
        return CostModel(target, booster)

    def save(self) -> bytes:
        assert self._booster is not None
        return bytes(self._booster.save_raw("ubj"))

    @property
    def trained(self) -> bool:
        return self._booster is not None

    def predict(self, task: Task, candidates: Sequence[Knobs]) -> np.ndarray:
        """log(time / best time) of each, as far as the model knows."""
        if self._booster is None or not candidates:
            return np.zeros(len(candidates), np.float32)
        rows = np.array([tunable(self._target).features(task, knobs, self._target) for knobs in candidates])
        return np.asarray(self._booster.predict(require_xgboost().DMatrix(rows)))

    def rank(self, task: Task, candidates: Sequence[Knobs]) -> list[Knobs]:
        """Most promising first."""
        return [candidates[i] for i in np.argsort(self.predict(task, candidates), kind="stable")]


def require_xgboost() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import xgboost
    except ImportError:
        raise UserError("tuning ranks candidates with xgboost, which is not installed; pip install 'sparsecc[tune]'") from None
    return xgboost
