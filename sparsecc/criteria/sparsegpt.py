"""Prune column by column, and let the columns that are left make up for what went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecc.criteria.base import FAINT, Chosen, Criterion, Project, Quota, Stats
from sparsecc.least_squares import inverse_factor


@dataclass(frozen=True)
class Sparsegpt(Criterion):
    """w² / diag(H⁻¹)², H = XᵀX (Frantar and Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023).

    Columns go from left to right in blocks of `columns`; the mask of a block (of a group under N:M) is chosen when it is reached, and the
    error of a weight that goes is spread over the columns to its right, which minimizes ‖WX - W'X‖ for them. A block of weights that is
    kept whole is worth the sum of its scores. Weights of inputs that are always zero go first, the smallest of them, and what is left of
    them stays as it is. Weights that are held at zero pass on what comes to them, as those that go.
    """

    needs: ClassVar[tuple[str, ...]] = ("hessian",)
    updates: ClassVar[bool] = True

    columns: int = 128

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        """With every weight as it came."""
        worth = _worth(inverse_factor(stats["hessian"]).diagonal(), stats["hessian"].diagonal() > 0)
        return (weight.detach().double().square() * worth.to(weight.device)).float()

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int, held: Tensor | None = None) -> Chosen:
        factor = inverse_factor(stats["hessian"]).to(weight.device, torch.float32)
        worth = _worth(factor.diagonal(), stats["hessian"].diagonal().to(weight.device) > 0)
        # [cols, rows], what is not pruned yet, with all errors spread so far; a copy, even of a weight that is stored so
        left = weight.detach().float().t().clone(memory_format=torch.contiguous_format)
        keep = torch.ones_like(left, dtype=torch.bool)
        quota = Quota(project, sparsity)
        width = -(-self.columns // project.cols) * project.cols
        for start in range(0, len(left), width):
            stop = min(start + width, len(left))
            errors = torch.empty_like(left[start:stop])
            chosen_at = project.cols if project.fixed is not None else width
            for i in range(start, stop):
                if (i - start) % chosen_at == 0:
                    part = slice(i, min(i + chosen_at, stop))
                    score = left[part].square() * worth[part, None]
                    keep[part] = quota.keep(score.t().contiguous(), None if held is None else held[:, part]).t()
                gone = torch.where(keep[i], 0.0, left[i])
                error = gone / factor[i, i]
                left[i:stop] -= factor[i, i:stop, None] * error
                errors[i - start] = error
            left[stop:] -= factor[start:stop, stop:].t() @ errors
        left.masked_fill_(~keep, 0.0)
        return Chosen(keep.t().contiguous(), left.t().contiguous().to(weight.dtype))


def _worth(diagonal: Tensor, live: Tensor) -> Tensor:
    """By what the square of a weight counts. diagonal: of the factor.  live: whether the input is ever other than zero."""
    worth = 1 / diagonal.square()
    return torch.where(live, worth, FAINT * worth.min())
