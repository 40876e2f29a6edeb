"""SR-STE: the forward pass sees the projected weights, the backward pass updates all of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsecc.errors import RecipeError
from sparsecc.train.base import Soft, View


@dataclass(frozen=True, kw_only=True)
class SrSte(Soft):
    """w ← w - η (∂L/∂w̃ + decay · (1 - keep) · w), w̃ = keep · w: the gradient of the projected weight goes straight through to all
    weights, and those that are masked are pulled to zero, so that masks settle (Zhou et al., Learning N:M Fine-grained Structured Sparse
    Neural Networks From Scratch, 2021). Masks keep the largest weights, in N:M or any other pattern. Before `begin` training is dense.

    decay: how strongly masked weights are pulled to zero, the paper's λ_w. decay · w is added to their gradient in each step.
    """

    examples = ({"pattern": "2:4"}, {"sparsity": 0.7, "every": 3}, {"pattern": "4x1", "sparsity": 0.5, "begin": 10})

    every: int = 1
    decay: float = 2e-4

    share_changed = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay < 0:
            raise RecipeError(f"decay: {self.decay} is negative, masked weights would grow")

    def settled(self, step: int) -> bool:
        return step >= self.begin

    def first(self, view: View) -> Tensor:
        return view.keep if self.begin else self.change(view, 0)

    def change(self, view: View, step: int) -> Tensor:
        return view.pattern.project(view.magnitude, view.sparsity)

    def seen(self, weight: Tensor, keep: Tensor, step: int) -> Tensor:
        return weight - (weight * ~keep).detach()

    def pull(self, weight: Tensor, keep: Tensor, step: int) -> Tensor:
        return self.decay * weight * ~keep
