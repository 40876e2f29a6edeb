"""Sparse evolutionary training: the smallest weights make room for random ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsecc.train._regrowing import Regrowing, uniform
from sparsecc.train.base import View


@dataclass(frozen=True, kw_only=True)
class Set(Regrowing):
    """Every `every` steps the `share` of the weights nearest to zero goes (the paper's ζ, constant), as many grow at random
    (Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity, 2018).
    New weights start at zero, where the paper draws them at random: the function that the model computes does not jump.
    """

    examples = ({"sparsity": 0.7, "start": "random"}, {"pattern": "1x4", "sparsity": 0.5}, {"pattern": "2:4"})

    def exchanged(self, step: int) -> float:
        return self.share

    def growth(self, view: View) -> Tensor:
        return uniform(view)
