"""Blocks whose scores are too far below each query's largest to matter, as in BLASST (Yuan et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsecc.attention.base import Asked
from sparsecc.attention.dynamic import Dynamic, Margin, Rule, spread


@dataclass(frozen=True)
class SkipSoftmax(Dynamic):
    """A block is kept where one of its queries has a score in it of at least its largest score plus ln λ. λ is calibrated for each head
    such that it keeps the density asked for on the samples; other inputs may keep more or less. Blocks that hold a query's largest score
    are always kept, so that a density below their share is not reached. To choose blocks, all scores are computed: what can be saved are
    the exponentials and the product with the values. The paper compares with the largest score so far, which keeps no less.
    """

    def rule(self, asked: Asked) -> Rule:
        every = Margin(torch.full((asked.heads,), -torch.inf))
        scores = spread(asked, lambda one: every.scores(one.q.float(), one.k.float(), asked.scale, asked.block, asked.causal))
        blocks = asked.grid.blocks(asked.block)
        whole = blocks * (blocks + 1) // 2 if asked.causal else blocks * blocks
        items = sum(len(sample.q) for sample in asked.samples)
        most = round(asked.density * whole * items) - (whole * items - scores.shape[1])
        if most >= scores.shape[1]:
            return every
        if most <= 0:
            return Margin(torch.zeros(asked.heads))
        last, next_lower = scores.topk(most + 1, 1).values[:, -2:].unbind(1)
        return Margin(((last + next_lower) / 2).clamp(max=0))  # between two scores, so that rounding decides nothing on the samples
