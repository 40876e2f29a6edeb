"""How masks change: pruning by magnitude to a sparsity, and dropping the smallest to grow others in their place, in any format."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sparsecc.formats.base import Format
from sparsecc.formats.csr import Csr
from sparsecc.formats.nm import NM
from sparsecc.train.base import View


def cubic(progress: float) -> float:
    """Share of the final sparsity: 1 - (1 - progress)³, fast while much is redundant (Zhu and Gupta, To Prune or not to Prune, 2017)."""
    return 1 - (1 - progress) ** 3


def cosine(progress: float) -> float:
    """From 1 to 0: ½ (1 + cos(π progress))."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def on_the_way(format: Format, sparsity: float) -> Format | None:
    """The format that a mask has at a sparsity on the way to the final one: an N:M pattern keeps fewer and fewer of M, and never
    fewer than the sparsity says. None: everything is kept."""
    if not isinstance(format, NM):
        return format if sparsity > 0 else None
    n = max(format.n, math.ceil((1 - sparsity) * format.m - 1e-9))
    return replace(format, n=n) if n < format.m else None


def pruned(view: View, sparsity: float) -> Tensor:
    """The mask that keeps the largest of the weights kept so far. What is gone stays gone."""
    format = on_the_way(view.format, sparsity)
    return view.keep if format is None else format.project(_among_kept(view), sparsity)


def regrown(view: View, sparsity: float, share: float, growth: Tensor) -> Tensor:
    """The mask of this sparsity that keeps the largest weights but for `share` of them, and grows where `growth` is highest.

    growth: float[rows, cols], at least 0. What has just been dropped may grow again. Under N:M the smallest of the whole matrix are
    dropped, and each group grows as many as it lost.
    """
    format = on_the_way(view.format, sparsity)
    if format is None:
        return view.keep
    keep = format.project(_among_kept(view), sparsity)
    dropping = Csr() if format.fixed_sparsity is not None else format
    units = keep.numel() // dropping.unit_size
    staying = round((1 - share) * int(keep.count_nonzero()) / dropping.unit_size)
    stay = keep & dropping.project(torch.where(keep, view.magnitude, -1.0), 1 - staying / units)
    return format.project(torch.where(stay, torch.inf, growth.double()), sparsity)


def _among_kept(view: View) -> Tensor:
    """Magnitudes, with what is masked below everything that is kept, zeros included."""
    return torch.where(view.keep, view.magnitude, -1.0)
