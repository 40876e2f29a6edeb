"""Structured RigL: as many inputs for every output, so that no row pointers and no uneven rows are left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.errors import RecipeError
from sparsecc.patterns.unstructured import Unstructured
from sparsecc.train._regrowing import Regrowing, steepness
from sparsecc.train.base import View


@dataclass(frozen=True, kw_only=True)
class Srigl(Regrowing):
    """RigL with a constant fan-in and neurons that may go (Lasby et al., Dynamic Sparse Training with Structured Sparsity, 2024).

    At a change K weights of a layer are to go, the smallest. A weight is salient when it is not one of them, or when it is one of the K
    masked ones with the largest gradient. Outputs with fewer salient weights than `salient` times the fan-in lose all their weights for
    good. Those that are left share the layer's budget of weights evenly, and each grows by its own largest gradients up to the new fan-in.
    Fan-ins are whole, and at least 1: a layer keeps up to one weight less for each output than asked for.

    salient: an output loses all its weights when fewer of them than this share of the fan-in are salient; at 0 none does. The paper takes
    0.3 for convolutional networks and 0.95 for transformers.
    """

    examples = ({"sparsity": 0.7}, {"sparsity": 0.9, "salient": 0.9})

    needs_gradient = True
    salient: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern != "unstructured":
            raise RecipeError(f"pattern: {self.pattern} cannot be asked for, srigl makes its own, a constant fan-in; leave it out")
        if not 0 <= self.salient <= 1:
            raise RecipeError(f"salient: {self.salient} is not in [0, 1]")

    def first(self, view: View) -> Tensor:
        rows = torch.ones(len(view.keep), dtype=torch.bool, device=view.keep.device)
        return _highest(self.worth(view), rows, _fan_in(view, len(view.keep)))

    def growth(self, view: View) -> Tensor | None:
        return steepness(view)

    def change(self, view: View, step: int) -> Tensor:
        growth = self.growth(view)
        if growth is None:
            return view.keep
        moved = round(self.exchanged(step) * int(view.keep.count_nonzero()))
        stay = view.keep & _largest(torch.where(view.keep, view.magnitude, -1.0), int(view.keep.count_nonzero()) - moved)
        wanted = ~view.keep & _largest(torch.where(view.keep, -1.0, growth.double()), moved)
        active = self._active(view, (stay | wanted).sum(dim=1))
        return _highest(torch.where(stay, torch.inf, growth.double()), active, _fan_in(view, int(active.count_nonzero())))

    def _active(self, view: View, salient: Tensor) -> Tensor:
        """bool[rows]: outputs that stay. At least as many as the budget of weights fills, those with most salient weights."""
        alive = view.keep.any(dim=1)
        fan_in = _fan_in(view, int(alive.count_nonzero()))
        enough = alive & (salient >= self.salient * fan_in)
        least = max(1, -(-_budget(view) // view.keep.shape[1]))
        best = _largest(torch.where(alive, salient.double(), -1.0), least)
        return enough | (best & alive)


def _budget(view: View) -> int:
    """Weights that the layer may keep."""
    return view.keep.numel() - round(view.sparsity * view.keep.numel())


def _fan_in(view: View, outputs: int) -> int:
    return min(view.keep.shape[1], max(1, _budget(view) // outputs))


def _largest(score: Tensor, count: int) -> Tensor:
    """True at the `count` largest."""
    return Unstructured().project(score, 1 - count / score.numel())


def _highest(score: Tensor, rows: Tensor, count: int) -> Tensor:
    """True at the `count` highest of each of these rows; the lower index on a tie."""
    best = score.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, best, True) & rows[:, None]
