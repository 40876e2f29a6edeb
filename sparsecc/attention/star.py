"""Star attention (Acharya et al. 2024): segments that see themselves and the first of them, the anchor, and global tokens. Nothing is
reordered and nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.attention.base import Asked, Choice
from sparsecc.attention.fixed import Fixed, choice, whole_blocks, widest
from sparsecc.errors import RecipeError


@dataclass(frozen=True)
class Star(Fixed):
    """The sequence is cut into segments of `segment` tokens, widened to whole blocks. A query sees its own segment and the first one; the
    text tokens of the grid see all and are seen by all, as the paper's queries see all. The size stands behind the name, `star:4096`;
    without one it is the largest power of two of blocks that keeps at most the density asked for. A density that is too small for an anchor
    of one block leaves it out.
    """

    examples = ({}, {"segment": 7})

    segment: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment == 0:
            raise RecipeError("segment: 0 tokens are no segment")

    def choose(self, asked: Asked) -> Choice:
        if self.segment is not None:
            return choice(_segments(whole_blocks(self.segment, asked), asked), asked)
        sizes = [1 << power for power in range(asked.grid.blocks(asked.block).bit_length() + 1)]  # the last holds all
        return choice(widest(sizes, lambda size: _segments(size, asked), asked), asked)


def _segments(size: int, asked: Asked) -> Tensor:
    """bool[query_blocks, key_blocks]. size: of a segment, in blocks."""
    segment = torch.arange(asked.grid.blocks(asked.block)) // size
    return (segment[:, None] == segment) | (segment == 0)
