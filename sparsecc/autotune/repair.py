"""What a recipe gets so that the layers that it pruned come nearer to the dense ones again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparsecc.autotune.rungs import Rung
from sparsecc.graph.base import Differentiable, Graph

ONE_SHOT, FINAL = "sparsegpt", "alps"  # criteria: the one that is quick, and that which chooses better masks for the same patterns
DISTILLATION, RECONSTRUCTION = "distillation", "reconstruction"
_LEARNING_RATE = 3e-4  # 1e-3 destroys models with removed neurons
_LEAST_KEPT = 0.1


@dataclass(frozen=True)
class Repair:
    """How models are recovered. method: as of `recover`.  criterion: by which their weights are pruned.  steps: of gradient descent; a
    number, and no time, so that the recipe gives the same model again."""

    method: str
    criterion: str
    steps: int | None = None

    @classmethod
    def of(cls, graph: Graph, criterion: str) -> Repair:
        """Distillation where gradients flow through the model, least squares layer by layer elsewhere. criterion: of the search."""
        method = DISTILLATION if isinstance(graph, Differentiable) else RECONSTRUCTION
        return cls(method, FINAL if criterion == ONE_SHOT else criterion)

    def lasting(self, steps: int) -> Repair:
        return replace(self, steps=steps)

    @property
    def prune(self) -> dict[str, Any]:
        return {"criterion": self.criterion}

    def passes(self, checkpoint: str | None = None) -> list[Mapping[str, Any]]:
        """checkpoint: a file, as of `recover`."""
        fields: dict[str, Any] = {"method": self.method}
        if self.method == DISTILLATION:
            fields |= {"steps": self.steps, "learning_rate": _LEARNING_RATE}
        return [{"recover": {**fields, **({} if checkpoint is None else {"checkpoint": checkpoint})}}]

    @property
    def expected(self) -> float:
        """The share of the squared error that is left, before anything was recovered: half, and less with more steps, which on MiniLM took
        a third off the error from 1,200 steps to 3,000."""
        return 0.5 if self.steps is None else max(min(0.5 * (100 / self.steps) ** 0.4, 0.9), _LEAST_KEPT)


def repairable(rung: Rung) -> bool:
    """Whether weights are gone, for which the kept ones can make up."""
    return rung.pattern is not None or rung.narrow is not None


def unrepaired(rung: Rung) -> Rung:
    """What no recovery mends: the number format of a rung that is repairable, all of any other."""
    return Rung(rung.dtype) if repairable(rung) else rung
