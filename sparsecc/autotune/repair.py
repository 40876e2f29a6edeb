"""What a recipe gets so that the layers that it pruned come nearer to the dense ones again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparsecc.autotune.rungs import Rung
from sparsecc.graph.base import Differentiable, Graph

ONE_SHOT, FINAL = "sparsegpt", "alps"  # criteria: the one that is quick, and that which chooses better masks for the same patterns
DISTILLATION, RECONSTRUCTION = "distillation", "reconstruction"
_LEARNING_RATE = 3e-4  # 1e-3 destroys models with removed neurons, 5e-4 is no better
_VARIATIONS = 19  # a sample as it is in one of 20 steps
_LEAST_KEPT = 0.1


@dataclass(frozen=True)
class Repair:
    """How models are recovered. method: as of `recover`.  criterion: by which their weights are pruned.  steps: of gradient descent; a
    number, and no time, so that the recipe gives the same model again."""

    method: str
    criterion: str
    steps: int | None = None
    dtype: str = "float32"

    @classmethod
    def of(cls, graph: Graph, criterion: str, dtypes: Collection[str] = ()) -> Repair:
        """Distillation where gradients flow through the model, least squares layer by layer elsewhere. criterion: of the search.  dtypes:
        number formats that the machine multiplies; steps in bfloat16 take 0.6 of the time of others."""
        method = DISTILLATION if isinstance(graph, Differentiable) else RECONSTRUCTION
        dtype = "bfloat16" if "bfloat16" in dtypes and method == DISTILLATION else "float32"
        return cls(method, FINAL if criterion == ONE_SHOT else criterion, dtype=dtype)

    def lasting(self, steps: int) -> Repair:
        return replace(self, steps=steps)

    @property
    def prune(self) -> dict[str, Any]:
        return {"criterion": self.criterion}

    def passes(self, checkpoint: str | None = None) -> list[Mapping[str, Any]]:
        """checkpoint: a file, as of `recover`."""
        fields: dict[str, Any] = {"method": self.method}
        if self.method == DISTILLATION:
            fields |= {"steps": self.steps, "learning_rate": _LEARNING_RATE, "variations": _VARIATIONS, "dtype": self.dtype}
            fields["unchanged"] = True
        return [{"recover": {**fields, **({} if checkpoint is None else {"checkpoint": checkpoint})}}]

    @property
    def expected(self) -> float:
        """The share of the squared error that is left, before anything was recovered: half, and less with more steps: of a MiniLM without
        40 % of its neurons 0.7 after 1,200 steps, 0.5 after 3,000 and 0.43 after 6,000."""
        return 0.5 if self.steps is None else max(min(0.5 * (3000 / self.steps) ** 0.25, 0.9), _LEAST_KEPT)


def repairable(rung: Rung) -> bool:
    """Whether weights are gone, for which the kept ones can make up."""
    return rung.pattern is not None or rung.narrow is not None


def unrepaired(rung: Rung) -> Rung:
    """What no recovery mends: the number format of a rung that is repairable, all of any other."""
    return Rung(rung.dtype) if repairable(rung) else rung
