"""A sliding window (Beltagy et al. 2020, Longformer; Child et al. 2019): each token sees those near it, and global tokens see all and are
seen by all. Nothing is reordered and nothing measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import torch

from sparsecc.attention.base import Asked, BlockMap, Choice, Pattern, required
from sparsecc.attention.judge import judge
from sparsecc.errors import RecipeError


@dataclass(frozen=True)
class SlidingWindow(Pattern):
    """Block i of the queries sees block j of the keys where |i − j| ≤ ⌈window / block⌉, so that each token sees at least `window` tokens
    before it and, where attention is not causal, as many after it. The text tokens of the grid are the global ones. The window stands
    behind the name, `sliding_window:512`; without one it is the widest that keeps at most the density asked for.
    """

    reorders = False
    needs_grid = False
    needs_samples = False
    exact_density = False
    examples = ({}, {"window": 5})

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise RecipeError(f"window: {self.window} is negative")

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        """`sliding_window:512` has a window of 512 tokens."""
        if not parameters:
            return cls()
        return cls(int(parameters)) if re.fullmatch(r"[0-9]{1,9}", parameters) else None

    def choose(self, asked: Asked) -> Choice:
        at = torch.arange(asked.grid.blocks(asked.block))
        distance = (at[:, None] - at).abs()
        needed = required(asked.grid, asked.block, asked.causal)
        if asked.causal:
            distance = torch.where(at[:, None] >= at, distance, len(at))
        keep = needed | (distance <= self._reach(distance, needed, asked))
        found = BlockMap(asked.grid, asked.block, None, keep.repeat(asked.heads, 1, 1), asked.causal)
        return judge(found, asked)

    def _reach(self, distance: torch.Tensor, needed: torch.Tensor, asked: Asked) -> int:
        """In blocks. distance: of each block from the diagonal, `len(distance)` for those that are never computed."""
        if self.window is not None:
            return min(-(-self.window // asked.block), len(distance) - 1)
        most = round(asked.density * int((distance < len(distance)).count_nonzero()))
        kept = [int((needed | (distance <= reach)).count_nonzero()) for reach in range(len(distance))]
        return max((reach for reach, count in enumerate(kept) if count <= most), default=0)
