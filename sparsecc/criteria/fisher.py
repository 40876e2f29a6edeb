"""Keep the weights that the outputs depend on most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecc.criteria.base import Criterion, Stats


@dataclass(frozen=True)
class Fisher(Criterion):
    """w² · mean(g²), the diagonal of the Fisher information (Sung et al., Training Neural Networks with Fixed Sparse Masks, 2021).

    Without labels: what the model's outputs move by when the weight alone goes, to first order. A millionth of the mean is added to each
    mean(g²), so that among weights that no output depends on at all magnitude decides; 1 where all are zero.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        power = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
        for gradient in stats["gradients"]:  # one by one: squares of all are as large as the gradients
            power += gradient.to(power).square() / len(stats["gradients"])
        floor = 1e-6 * float(power.mean()) or 1.0
        return (weight.detach().double().square() * (power + floor)).float()
