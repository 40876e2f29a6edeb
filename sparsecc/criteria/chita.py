"""Choose all weights that stay together, not one by one: the best sparse point of a quadratic model of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecc.criteria._curvature import Curvature
from sparsecc.criteria.base import Chosen, Criterion, Project, Stats, project_without

SLOW = 0.999  # of the cost: a step that leaves more is the last


@dataclass(frozen=True)
class Chita(Criterion):
    """min ½(w - w̄)ᵀH(w - w̄) over w of the pattern (Benbaki et al., Fast as CHITA: Neural Network Pruning with Combinatorial
    Optimization, 2023), H as for `obs`.

    Iterative hard thresholding: a step down the slope from the best point on a support, whose largest weights are the next support. Slopes
    and squares are scaled by dᵢ = 1/[H⁻¹]ᵢᵢ, what a weight costs when the others may follow: steps of 1/L for all weights, L the largest
    eigenvalue of H, cannot fail but hardly move (planted problems: 5 % off the cost of `obs`, 15 % with the scale). A step that costs more
    is taken back and halved. The start is the cheaper one of what magnitude and `obs` keep, so that the end costs no more than either.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    updates: ClassVar[bool] = True

    damping: float = 1.0
    trials: int = 10

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        """As `obs`."""
        return Curvature(stats["gradients"], self.damping).saliency(weight)

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int, held: Tensor | None = None) -> Chosen:
        curvature, dense = Curvature(stats["gradients"], self.damping), weight.detach().double()
        scale = 1 / curvature.inverse_diagonal()
        starts = [project_without(project, score, sparsity, held) for score in (dense.abs(), scale * dense.square())]
        keep, best, cost = min((_at(curvature, dense, keep) for keep in starts), key=lambda found: found[2])
        step = 1.0
        for _ in range(self.trials if cost > 0 else 0):
            point = best - step / scale * curvature.slope(best - dense)
            near = project_without(project, scale * point.square(), sparsity, held)
            if torch.equal(near, keep):
                break
            trial = _at(curvature, dense, near)
            if trial[2] < cost:
                slow = trial[2] > SLOW * cost
                keep, best, cost = trial
                step = min(2 * step, 1.0)
                if slow:
                    break
            else:
                step /= 2
        return Chosen(keep, best.to(weight.dtype))


def _at(curvature: Curvature, dense: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, float]:
    """A support, the best point on it and what that costs."""
    best, costs = curvature.best_on(dense, keep)
    return keep, best, float(costs.sum())
