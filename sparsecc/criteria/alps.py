"""Choose the whole mask of a layer at once, by splitting: one copy of the weights fits the inputs, the other fits the pattern."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg has no types.

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecc import least_squares
from sparsecc.criteria.base import FAINT, Chosen, Criterion, Project, Stats, project_without

_ROUGH = 0.1  # tolerance of the fits by which masks are compared


@dataclass(frozen=True)
class Alps(Criterion):
    """min ‖(W - D)X‖² over D of the pattern (Meng et al., ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
    Language Models, 2024).

    Alternating direction method of multipliers: W' follows the inputs, D is W' + V/ρ cut to the pattern, V counts by how much they
    differ; ρ grows by `growth` every third round, until the mask stays. Inputs are scaled to a mean square of 1, so that the largest
    entries of D are those that cost most. On the mask found, and on that of the first cut, the weights are fitted by conjugate gradients;
    the better one stays, as the alternation has no guarantee. Weights of inputs that are always zero go first, the smallest of them, and
    what is left of them stays as it is.
    """

    needs: ClassVar[tuple[str, ...]] = ("hessian",)
    updates: ClassVar[bool] = True
    measured_as: ClassVar[str | None] = "sparsegpt"

    rounds: int = 30
    penalty: float = 0.1  # ρ at the start; H has ones on its diagonal
    growth: float = 1.3

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        """w²·H_jj, next to nothing for inputs that are always zero: what D is cut by in the first round."""
        worth = least_squares.dampened(stats["hessian"], least_squares.DAMPING).diagonal()
        worth = torch.where(stats["hessian"].diagonal() > 0, worth, FAINT * worth)
        return weight.detach().float().square() * worth.to(weight.device, torch.float32)

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int, held: Tensor | None = None) -> Chosen:
        score = self.score(weight, stats, seed)
        first = keep = project_without(project, score, sparsity, held)
        if not bool(weight[~first].any()):
            return Chosen(first)
        hessian = least_squares.dampened(stats["hessian"], least_squares.DAMPING).to(weight.device)
        scale = hessian.diagonal().sqrt()
        values, vectors = (part.float() for part in torch.linalg.eigh(hessian / scale / scale[:, None]))
        scale, hessian = scale.float(), (hessian / scale / scale[:, None]).float()
        live = stats["hessian"].diagonal().to(weight.device) > 0
        dense = weight.detach().float() * scale * live
        pull = dense @ hessian
        cut, multiplier, penalty = dense * keep, torch.zeros_like(dense), self.penalty
        settled = first
        for round_ in range(1, self.rounds + 1):
            fitted = ((pull - multiplier + penalty * cut) @ vectors / (values + penalty)) @ vectors.T
            wanted = (fitted + multiplier / penalty) * live
            keep = project_without(project, torch.where(live, wanted.square(), score), sparsity, held)
            cut = wanted * keep
            multiplier += penalty * (fitted - cut)
            if round_ % 3 == 0:
                if torch.equal(keep, settled):
                    break
                settled, penalty = keep, penalty * self.growth
        inverse = least_squares.inverse_of(hessian)
        fits = [(mask, least_squares.solve(hessian, inverse, pull, start, mask, _ROUGH)) for mask, start in ((keep, cut), (first, dense))]
        keep, best = min(fits, key=lambda fit: float((fit[1] @ hessian - 2 * pull).mul_(fit[1]).sum(dtype=torch.float64)))
        best = least_squares.solve(hessian, inverse, pull, best, keep)
        return Chosen(keep, torch.where(live, (best / scale).to(weight.dtype), weight.detach() * keep))
