"""One threshold over all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.allocations.base import Allocation, Share, dropped_in_total, floor_units
from sparsecc.top import keep_top


@dataclass(frozen=True)
class Global(Allocation):
    """The lowest units of all layers together go, whichever layer they are in. Each layer's best `floor` share stays: without it
    whole layers collapse (Hayou et al., Robust Pruning at Initialization, 2021)."""

    def allocate(self, layers: Sequence[Share], sparsity: float, floor: float) -> list[float]:
        scores = torch.cat([_above_floor(layer, floor) for layer in layers])
        keep = keep_top(scores, dropped_in_total(layers, sparsity))
        kept = [int(part.count_nonzero()) for part in torch.split(keep, [layer.units for layer in layers])]
        return [1 - n / layer.units for n, layer in zip(kept, layers, strict=True)]


def _above_floor(layer: Share, floor: float) -> Tensor:
    """The layer's scores, infinite for those that the floor keeps anyway."""
    scores = layer.unit_scores().float()
    safe = keep_top(scores, layer.units - floor_units(layer, floor))
    return torch.where(safe, torch.inf, scores)
