"""Choosing the highest scores, exactly: what formats and allocations agree on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def keep_top(score: Tensor, dropped: int) -> Tensor:
    """bool[n] on the same device, false at the `dropped` lowest of score[n]; of equal scores the lower index is kept. NaN is lowest."""
    keep = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    if dropped <= 0:
        return keep
    if dropped >= score.numel():
        return ~keep
    score = score.detach()
    score = torch.where(score.isnan(), -torch.inf, score if score.dtype == torch.float64 else score.float())
    if score.device.type == "cpu":  # numpy's introselect makes one copy of the scores; torch.kthvalue adds int64 indices, twice their size
        threshold = np.partition(score.numpy(), dropped - 1)[dropped - 1].item()
    else:
        threshold = score.kthvalue(dropped).values
    keep = score > threshold
    ties = (score == threshold).nonzero().squeeze(1)
    keep[ties[: score.numel() - dropped - int(keep.count_nonzero())]] = True
    return keep
