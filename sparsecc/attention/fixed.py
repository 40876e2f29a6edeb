"""What the patterns share whose blocks are told by their places alone: nothing is reordered, nothing measured, and every head has the
same blocks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import torch
from torch import Tensor

from sparsecc.attention.base import Asked, BlockMap, Choice, Pattern, required
from sparsecc.attention.judge import judge
from sparsecc.errors import RecipeError

Size = TypeVar("Size")


@dataclass(frozen=True)
class Fixed(Pattern):
    """Its fields are numbers of tokens, and stand behind its name in their order: `tri_shape:512:128`. Without them it keeps what the
    density asked for allows."""

    reorders = False
    needs_grid = False
    needs_samples = False
    exact_density = False

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if size is not None and size < 0:
                raise RecipeError(f"{field.name}: {size} is negative")

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        if not parameters:
            return cls()
        sizes = parameters.split(":")
        if len(sizes) > len(fields(cls)) or not all(re.fullmatch(r"[0-9]{1,9}", size) for size in sizes):
            return None
        return cls(*map(int, sizes))


def whole_blocks(tokens: int, asked: Asked) -> int:
    """How many blocks hold that many tokens."""
    return -(-tokens // asked.block)


def distances(asked: Asked) -> Tensor:
    """int64[query_blocks, key_blocks]: of each block from the diagonal."""
    at = torch.arange(asked.grid.blocks(asked.block))
    return (at[:, None] - at).abs()


def choice(keep: Tensor, asked: Asked) -> Choice:
    """keep: bool[query_blocks, key_blocks] of every head, to which what is required is added; what is never computed may be in it."""
    return judge(BlockMap(asked.grid, asked.block, None, _computed(keep, asked).repeat(asked.heads, 1, 1), asked.causal), asked)


def widest(sizes: Sequence[Size], keep: Callable[[Size], Tensor], asked: Asked) -> Tensor:
    """What the last of `sizes` keeps that stays within the density asked for; what is required where none does. Each has to keep all that
    those before it keep, so that bisection finds it."""
    needed = required(asked.grid, asked.block, asked.causal)
    most = round(asked.density * int(_computed(torch.ones_like(needed), asked).count_nonzero()))
    fitting = bisect_right(sizes, most, key=lambda size: int(_computed(keep(size), asked).count_nonzero()))
    return keep(sizes[fitting - 1]) if fitting else needed


def _computed(keep: Tensor, asked: Asked) -> Tensor:
    return (keep.tril() if asked.causal else keep) | required(asked.grid, asked.block, asked.causal)
