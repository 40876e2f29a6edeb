"""What a criterion is: it scores weights; a format turns the scores into a mask. It knows no graph and no pattern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

Project = Callable[["Tensor", float], "Tensor"]
"""(score[rows, cols], sparsity) → keep: `Format.project`. May be called on parts of a matrix: whole groups or blocks of it."""

Stats = Mapping[str, "Tensor"]
"""What calibration measured at a site, by the names in `Criterion.needs`.
inputs: float[tokens, cols], in the order of the matrix's columns."""


@dataclass(frozen=True)
class Chosen:
    """keep: bool[rows, cols].  weight: the matrix with its kept weights updated, None when they stay as they were."""

    keep: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Criterion(ABC):
    """One member of the family; fields are its options. Pure: the same weight, stats and seed give the same scores."""

    needs: ClassVar[tuple[str, ...]] = ()  # the statistics that `score` or `choose` reads

    @abstractmethod
    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        """float[rows, cols], higher is more worth keeping. `seed` differs from site to site."""

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int) -> Chosen:
        """The mask for one site. Methods that choose and update weights in turns, as SparseGPT does, override this and
        call `project` on parts of the matrix."""
        return Chosen(project(self.score(weight, stats, seed), sparsity))
