"""RigL: the smallest weights make room for those that the loss wants most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsecc.train._regrowing import Regrowing, steepness
from sparsecc.train.base import View


@dataclass(frozen=True, kw_only=True)
class Rigl(Regrowing):
    """Every `every` steps share · ½ (1 + cos(π p)) of the kept weights, the smallest, go (p runs from 0 at `begin` to 1 at `end`); as many
    grow where the gradient is largest, from zero (Evci et al., Rigging the Lottery, 2020). The optimizer takes the step of such a batch,
    too, where the paper takes none.
    """

    examples = ({"sparsity": 0.7, "allocation": "erk"}, {"pattern": "4x1", "sparsity": 0.5, "allocation": "global"}, {"pattern": "2:4"})

    needs_gradient = True

    def growth(self, view: View) -> Tensor | None:
        return steepness(view)
