"""Gradual magnitude pruning: dense at first, then fewer and fewer weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsecc.train._masks import cubic, pruned
from sparsecc.train.base import Method, View


@dataclass(frozen=True, kw_only=True)
class Gmp(Method):
    """s_t = s (1 - (1 - (t - begin) / (end - begin))³), the smallest weights of each layer go, and none comes back
    (Zhu and Gupta, To Prune or not to Prune, 2017). An N:M pattern is reached through N = M - 1, M - 2, ...
    """

    examples = ({"sparsity": 0.7}, {"pattern": "4x1", "sparsity": 0.5}, {"pattern": "1:4"})

    def first(self, view: View) -> Tensor:
        return view.keep

    def change(self, view: View, step: int) -> Tensor:
        return pruned(view, view.sparsity * cubic(self.progress(step)))
