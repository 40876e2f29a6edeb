"""Continuous adaptive sparse training: masked weights fade, in what the forward pass sees and in themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.errors import RecipeError
from sparsecc.train.base import Soft, View


@dataclass(frozen=True, kw_only=True)
class Cast(Soft):
    """Two parts, each from a paper:

    - Selective decay, of CAST (Huang et al., Continuous and Differentiable Semi-Structured Sparsity-Aware Training for Large Language
      Models, 2025): every `every` steps the smallest weights of each group are masked anew, and only they decay, by L1: λ_t · sign(w) is
      added to their gradient before the optimizer's step. λ_t rises linearly from 0 at `begin` to `decay` at `end`.
    - Fading flow, of mask decay (Bambhaniya et al., Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers, 2024):
      the forward pass reads w · (keep + (1 - keep) · β_t), so that the gradient of a masked weight is scaled by β_t, too. β_t falls
      linearly from 1 at `begin` to 0 at `end`; from there on the model is exactly the sparse one, and nothing jumps at the end.

    Of CAST it leaves out weight scaling (weights that are kept do not decay), the separation of the decay from Adam's second moment, which
    is the optimizer's own, and distillation, which is a matter of the loss.

    decay: the largest λ_t, which is added to the gradient of masked weights times their sign.
    """

    examples = ({"pattern": "1:4"}, {"sparsity": 0.7, "decay": 0.01})

    every: int = 10
    decay: float = 2e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay < 0:
            raise RecipeError(f"decay: {self.decay} is negative, masked weights would grow")

    def flow(self, step: int) -> float:
        """β: what is left of masked weights after this step."""
        return 1 - self.progress(step)

    def first(self, view: View) -> Tensor:
        return self.change(view, 0)

    def change(self, view: View, step: int) -> Tensor:
        return view.pattern.project(view.magnitude, view.sparsity)

    def seen(self, weight: Tensor, keep: Tensor, step: int) -> Tensor:
        return torch.where(keep, weight, weight * self.flow(step))

    def pull(self, weight: Tensor, keep: Tensor, step: int) -> Tensor:
        return self.decay * self.progress(step) * weight.sign() * ~keep
