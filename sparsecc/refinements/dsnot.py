"""Swap weights that are kept for others, so that each output stays where it was on average."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch gives `norm`, `any` and `repeat_interleave` no types.

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecc.criteria.base import Project, Stats
from sparsecc.refinements.base import Refinement


@dataclass(frozen=True)
class Dsnot(Refinement):
    """Zhang et al., Dynamic Sparse No Training, 2024: e = E[(W - W')x] of each output is brought near zero by swaps.

    A swap regrows, in each row, the weight that takes most off |e|, in relation to the variance of its input, and prunes the one with the
    least |w|·‖x‖ among those that do not add to |e|. A row rests when its error would not fall; at most `cycles` swaps in each. Under N:M
    both weights of a swap are of one group. Blocks of several outputs are swapped whole, e then being the vector of their outputs.
    """

    needs: ClassVar[tuple[str, ...]] = ("means", "variances", "norms")

    cycles: int = 50

    def refine(self, weight: Tensor, keep: Tensor, project: Project, stats: Stats) -> Tensor:
        weight = weight.detach().double()
        means, variances, norms = (stats[name].to(weight.device, torch.float64) for name in ("means", "variances", "norms"))
        given = _by_unit(weight * means, project)
        worth = project.sums(weight.abs() * norms)
        spread = _by_unit(variances.expand_as(weight), project).sum(2)
        spread = spread.clamp(min=1e-6 * float(spread.mean()) + 1e-30)
        kept = project.sums(keep.double()) > 0
        pool = project.cols if project.fixed is not None else kept.shape[1]
        error = (given * ~kept[:, :, None]).sum(1)
        awake = torch.ones(len(kept), dtype=torch.bool, device=kept.device)
        rows = torch.arange(len(kept), device=kept.device)
        for _ in range(self.cycles):
            along = (given @ error[:, :, None])[:, :, 0]  # of each unit: what it gives, times e
            grown, possible = _grown(along / spread, kept, along <= 0, pool)
            pruned = _pruned(worth, kept & (along <= 0), grown, pool)
            moved = error - given[rows, grown] + given[rows, pruned]
            awake &= possible & (moved.norm(dim=1) < error.norm(dim=1))
            if not awake.any():
                break
            kept[rows[awake], grown[awake]] = True
            kept[rows[awake], pruned[awake]] = False
            error = torch.where(awake[:, None], moved, error)
        return project.spread(kept)


def _by_unit(values: Tensor, project: Project) -> Tensor:
    """[rows, cols] → [rows/r, cols/c, r]: summed over the inputs of each unit of r×c."""
    r, c = project.unit
    rows, cols = values.shape
    return values.reshape(rows // r, r, cols // c, c).sum(3).transpose(1, 2)


def _grown(gain: Tensor, kept: Tensor, harmless: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """In each row the unit to regrow, and whether there is one that gains and has another to prune in its pool."""
    partner = (kept & harmless).unflatten(1, (-1, pool)).any(2).repeat_interleave(pool, dim=1)
    best = torch.where(~kept & partner & (gain > 0), gain, -torch.inf).max(dim=1)
    return best.indices, best.values > -torch.inf


def _pruned(worth: Tensor, able: Tensor, grown: Tensor, pool: int) -> Tensor:
    """In each row the least worthy unit of those that are able, in the pool of the one that grows."""
    near = torch.arange(able.shape[1], device=able.device) // pool == (grown // pool)[:, None]
    return torch.where(able & near, worth, torch.inf).argmin(dim=1)
