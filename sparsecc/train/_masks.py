"""How masks change: pruning by magnitude to a sparsity, and dropping the smallest to grow others in their place, in any pattern."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sparsecc.patterns.base import Pattern
from sparsecc.patterns.nm import NM
from sparsecc.patterns.unstructured import Unstructured
from sparsecc.train.base import View


def cubic(progress: float) -> float:
    """Share of the final sparsity: 1 - (1 - progress)³, fast while much is redundant (Zhu and Gupta, To Prune or not to Prune, 2017)."""
    return 1 - (1 - progress) ** 3


def cosine(progress: float) -> float:
    """From 1 to 0: ½ (1 + cos(π progress))."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def on_the_way(pattern: Pattern, sparsity: float) -> Pattern | None:
    """The pattern that a mask has at a sparsity on the way to the final one: N:M keeps fewer and fewer of M, and never
    fewer than the sparsity says. None: everything is kept."""
    if not isinstance(pattern, NM):
        return pattern if sparsity > 0 else None
    n = max(pattern.n, math.ceil((1 - sparsity) * pattern.m - 1e-9))
    return replace(pattern, n=n) if n < pattern.m else None


def pruned(view: View, sparsity: float) -> Tensor:
    """The mask that keeps the largest of the weights kept so far. What is gone stays gone."""
    pattern = on_the_way(view.pattern, sparsity)
    return view.keep if pattern is None else pattern.project(_among_kept(view), sparsity)


def regrown(view: View, sparsity: float, share: float, growth: Tensor) -> Tensor:
    """The mask of this sparsity that keeps the largest weights but for `share` of them, and grows where `growth` is highest.

    growth: float[rows, cols], at least 0. What has just been dropped may grow again. Under N:M the smallest of the whole matrix are
    dropped, and each group grows as many as it lost.
    """
    pattern = on_the_way(view.pattern, sparsity)
    if pattern is None:
        return view.keep
    keep = pattern.project(_among_kept(view), sparsity)
    dropping = Unstructured() if pattern.fixed_sparsity is not None else pattern
    units = keep.numel() // dropping.unit_size
    staying = round((1 - share) * int(keep.count_nonzero()) / dropping.unit_size)
    stay = keep & dropping.project(torch.where(keep, view.magnitude, -1.0), 1 - staying / units)
    return pattern.project(torch.where(stay, torch.inf, growth.double()), sparsity)


def _among_kept(view: View) -> Tensor:
    """Magnitudes, with what is masked below everything that is kept, zeros included."""
    return torch.where(view.keep, view.magnitude, -1.0)
