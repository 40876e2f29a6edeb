"""What a pattern is: which masks it allows, how it makes one from scores. How masks are stored is the formats' affair.

A pattern works on a matrix of shape [rows, cols] = [out, in] and knows no graph. A mask is called `keep`: bool, same shape, true where
the weight stays. `sparsity` is the fraction of zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.errors import Refused


@dataclass(frozen=True)
class Pattern(ABC):
    """One member of the family. Fields are the pattern's parameters (r and c, or n and m); instances are hashable.

    spelling: how recipes write patterns of this member, in words for an error.  examples: some, which the laws and tests run over.
    """

    spelling: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __str__(self) -> str:
        """As a recipe writes it: `unstructured`, `4x1`, `2:4`."""

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self | None:
        """What a recipe means by `text`; None when it is not this member's way of writing.
        Raises RecipeError for a pattern that cannot exist (3:2)."""

    @property
    def fixed_sparsity(self) -> float | None:
        """The one sparsity that this pattern has (N:M), None when any can be asked for."""
        return None

    @property
    def unit_size(self) -> int:
        """Weights in a unit: what is kept or dropped whole."""
        return 1

    @property
    def part(self) -> tuple[int, int]:
        """Rows and columns of the smallest part of a matrix that has a mask of its own."""
        return 1, 1

    def unit_scores(self, score: Tensor) -> Tensor:
        """float[rows*cols / unit_size]: the summed score of each unit, in the order of their index."""
        return score.reshape(-1)

    @abstractmethod
    def check(self, rows: int, cols: int) -> Refused | None:
        """Refused when no matrix of this shape has the pattern (not divisible)."""

    @abstractmethod
    def project(self, score: Tensor, sparsity: float) -> Tensor:
        """The mask of this pattern that keeps the highest scores.

        score: float[rows, cols], higher is more worth keeping.  sparsity: fraction of zeros, in [0, 1).
        Returns keep: bool[rows, cols]. Counts are exact: round(sparsity * units) units are dropped (a unit is a weight
        or a block); ties go to the lower index, which is kept. A pattern with a `fixed_sparsity` ignores `sparsity`.
        """

    @abstractmethod
    def holds(self, keep: Tensor) -> Refused | None:
        """None when the mask has this pattern exactly, otherwise why not (the nearest miss)."""

    @abstractmethod
    def cover(self, keep: Tensor) -> Tensor | Refused:
        """The smallest mask of this pattern that contains `keep` (`keep` itself where `holds` is None)."""
