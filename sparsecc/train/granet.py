"""GraNet: gradual pruning that lets other weights grow in the place of some that it pruned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.errors import RecipeError
from sparsecc.train._masks import cubic, on_the_way, regrown
from sparsecc.train._regrowing import Regrowing, steepness
from sparsecc.train.base import View


@dataclass(frozen=True, kw_only=True)
class Granet(Regrowing):
    """Gradual pruning with neuroregeneration (Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, 2021).

    The sparsity rises by the cubic schedule of gmp from `initial` to the one asked for at step `pruned`. At each change, more are pruned
    than it says: share · ½ (1 + cos(π p)) of those that it keeps (p as of rigl), by magnitude, and as many grow where the gradient is
    largest. After `pruned` the exchange goes on at constant sparsity until `end`.

    initial: the sparsity of each layer before the first change, at most the final one. 0 starts dense, 0.5 is the paper's sparse start.
    pruned: the step at which the full sparsity is reached. Halfway between `begin` and `end` when not given.
    """

    examples = ({"sparsity": 0.7}, {"pattern": "4x1", "sparsity": 0.6, "initial": 0.5}, {"pattern": "1:4"})

    needs_gradient = True
    share: float = 0.5
    initial: float = 0.0
    pruned: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.initial <= self.prune.share:
            raise RecipeError(f"initial: {self.initial} is not in [0, {self.prune.share:.4g}], up to the sparsity asked for")
        if not self.begin < self.full <= self.last:
            raise RecipeError(f"pruned: {self.full} is not in ({self.begin}, {self.last}], between begin and end")

    @property
    def full(self) -> int:
        """The step at which the sparsity is reached."""
        return (self.begin + self.last + 1) // 2 if self.pruned is None else self.pruned

    def settled(self, step: int) -> bool:
        return step >= min(self.last, self.full + (self.begin - self.full) % self.every)  # the first change from there on

    def sparsity_at(self, step: int, final: float) -> float:
        """Of a layer, after this step."""
        start = min(self.initial, final)
        done = min(1.0, max(0.0, (step - self.begin) / (self.full - self.begin)))
        return start + (final - start) * cubic(done)

    def first(self, view: View) -> Tensor:
        sparsity = self.sparsity_at(self.begin, view.sparsity)
        pattern = on_the_way(view.pattern, sparsity)
        return view.keep if pattern is None else pattern.project(self.worth(view), sparsity)

    def growth(self, view: View) -> Tensor | None:
        return steepness(view)

    def change(self, view: View, step: int) -> Tensor:
        growth = self.growth(view)
        share = 0.0 if growth is None else self.exchanged(step)
        return regrown(view, self.sparsity_at(step, view.sparsity), share, torch.zeros_like(view.weight) if growth is None else growth)
