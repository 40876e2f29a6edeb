"""Sinks, a window, and the last queries whole (Li et al. 2024, SCBench; the first two are of Xiao et al. 2023, StreamingLLM): for long
prompts, whose question stands at their end. Nothing is reordered and nothing measured."""

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
class TriShape(Pattern):
    """Every query sees the first block of keys and the blocks within `window` tokens of its own, and the queries of the last block see all.
    The window stands behind the name, `tri_shape:512`; without one it is the widest that keeps at most the density asked for.
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
        """`tri_shape:512` has a window of 512 tokens."""
        if not parameters:
            return cls()
        return cls(int(parameters)) if re.fullmatch(r"[0-9]{1,9}", parameters) else None

    def choose(self, asked: Asked) -> Choice:
        blocks = asked.grid.blocks(asked.block)
        if self.window is not None:
            keep = _shape(asked, min(-(-self.window // asked.block), blocks - 1))
        else:
            most = round(asked.density * int(_shape(asked, blocks - 1).count_nonzero()))
            fitting = (shape for reach in reversed(range(blocks)) if int((shape := _shape(asked, reach)).count_nonzero()) <= most)
            keep = next(fitting, _shape(asked, 0))
        return judge(BlockMap(asked.grid, asked.block, None, keep.repeat(asked.heads, 1, 1), asked.causal), asked)


def _shape(asked: Asked, reach: int) -> Tensor:
    """bool[query_blocks, key_blocks]. reach: of the window, in blocks."""
    at = torch.arange(asked.grid.blocks(asked.block))
    keep = ((at[:, None] - at).abs() <= reach) | (at == 0) | (at == at[-1])[:, None]
    return (keep.tril() if asked.causal else keep) | required(asked.grid, asked.block, asked.causal)
