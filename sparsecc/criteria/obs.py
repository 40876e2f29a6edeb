"""Drop the weights that cost least once the others have made up for them, then let them do so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsecc.criteria._curvature import Curvature
from sparsecc.criteria.base import Chosen, Criterion, Project, Stats, project_without


@dataclass(frozen=True)
class Obs(Criterion):
    """w² / 2[H⁻¹]_ii (Hassibi and Stork, Optimal Brain Surgeon, 1993), H from gradients (Frantar et al., M-FAC, 2021): see `Curvature`.

    The weights that stay move to where they cost least together, which for one weight that goes is -wᵢ H⁻¹eᵢ / [H⁻¹]ᵢᵢ. A block that is
    kept or dropped whole is worth the sum of its weights' scores.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    updates: ClassVar[bool] = True

    damping: float = 1.0

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        return Curvature(stats["gradients"], self.damping).saliency(weight)

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int, held: Tensor | None = None) -> Chosen:
        curvature = Curvature(stats["gradients"], self.damping)
        keep = project_without(project, curvature.saliency(weight), sparsity, held)
        best, _ = curvature.best_on(weight.detach(), keep)
        return Chosen(keep, best.to(weight.dtype))
