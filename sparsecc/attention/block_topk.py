"""Block top-k: in each call, the blocks whose mean query and mean key go together best. As in ReSA (Sun et al. 2025), which chooses
blocks of a cache of keys so for every query."""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.attention.base import Asked
from sparsecc.attention.dynamic import Dynamic, Pooled, Rule, per_row


@dataclass(frozen=True)
class BlockTopk(Dynamic):
    """Each block of queries sees the same number of blocks of keys, the most that keeps the density asked for: the diagonal, text, and of
    the others those with the highest products of means. It needs no calibration."""

    needs_samples = False

    def rule(self, asked: Asked) -> Rule:
        return Pooled(per_row(asked))
