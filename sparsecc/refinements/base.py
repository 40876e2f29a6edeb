"""What a refinement is: from the mask that a criterion has chosen it makes another one of the same pattern and count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.criteria.base import Project, Stats


@dataclass(frozen=True)
class Refinement(ABC):
    """One member of the family; fields are its options. Pure, as a criterion. It follows criteria that leave the weights as they are."""

    needs: ClassVar[tuple[str, ...]] = ()  # the statistics that `refine` reads, by the names in criteria.base.STATISTICS
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # options that the laws try

    @abstractmethod
    def refine(self, weight: Tensor, keep: Tensor, project: Project, stats: Stats) -> Tensor:
        """bool[rows, cols]: a mask of the format that `project` speaks for, as dense as `keep`, which is one of its masks."""
