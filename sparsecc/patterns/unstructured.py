"""Any mask: each weight is kept or dropped by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.patterns.base import Pattern
from sparsecc.top import keep_top


@dataclass(frozen=True)
class Unstructured(Pattern):
    """A recipe writes `unstructured`, or nothing: it is the default."""

    spelling = "'unstructured'"
    examples = ("unstructured",)

    def __str__(self) -> str:
        return "unstructured"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        return cls() if text == "unstructured" else None

    def check(self, rows: int, cols: int) -> Refused | None:
        return None

    def project(self, score: Tensor, sparsity: float) -> Tensor:
        dropped = round(sparsity * score.numel())
        return keep_top(self.unit_scores(score), dropped).reshape(score.shape)

    def holds(self, keep: Tensor) -> Refused | None:
        return None

    def cover(self, keep: Tensor) -> Tensor | Refused:
        return keep
