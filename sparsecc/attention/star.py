"""Star attention (Acharya et al. 2024): segments that see themselves and an anchor, the first of them. Nothing is reordered and nothing
measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.attention.base import Asked, BlockMap, Choice, Pattern, required
from sparsecc.attention.judge import judge
from sparsecc.errors import RecipeError


@dataclass(frozen=True)
class Star(Pattern):
    """The sequence is cut into segments of as many tokens, in whole blocks. A query sees the keys of its own segment and of the first; the
    text tokens of the grid see all and are seen by all, as the paper's query tokens do. The size stands behind the name, `star:1024`;
    without one it is the largest power of two of blocks that keeps at most the density asked for: of such, each holds two of the smaller.
    """

    reorders = False
    needs_grid = False
    needs_samples = False
    exact_density = False
    examples = ({}, {"segment": 7})

    segment: int | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment < 1:
            raise RecipeError(f"segment: {self.segment} is no number of tokens")

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        """`star:1024` has segments of 1024 tokens."""
        if not parameters:
            return cls()
        return cls(int(parameters)) if re.fullmatch(r"[0-9]{1,9}", parameters) else None

    def choose(self, asked: Asked) -> Choice:
        keep = self._widest(asked) if self.segment is None else _segments(asked, -(-self.segment // asked.block))
        return judge(BlockMap(asked.grid, asked.block, None, keep.repeat(asked.heads, 1, 1), asked.causal), asked)

    def _widest(self, asked: Asked) -> Tensor:
        blocks = asked.grid.blocks(asked.block)
        sizes = [1 << power for power in range((blocks - 1).bit_length() + 1)]
        most = round(asked.density * int(_segments(asked, blocks).count_nonzero()))
        found = [keep for size in sizes if int((keep := _segments(asked, size)).count_nonzero()) <= most]
        return found[-1] if found else _segments(asked, 1)


def _segments(asked: Asked, size: int) -> Tensor:
    """bool[query_blocks, key_blocks]. size: of a segment, in blocks."""
    at = torch.arange(asked.grid.blocks(asked.block)) // size
    keep = (at[:, None] == at) | (at == 0)
    return (keep.tril() if asked.causal else keep) | required(asked.grid, asked.block, asked.causal)
