"""Tri-shape (Li et al. 2024, SCBench): sinks and a window, as in StreamingLLM (Xiao et al. 2023), and the last queries see everything.
For long prompts with the question at their end. Nothing is reordered and nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.attention.base import Asked, Choice
from sparsecc.attention.fixed import Fixed, choice, distances, whole_blocks, widest


@dataclass(frozen=True)
class TriShape(Fixed):
    """Every query sees the first `sinks` tokens and those within `window` tokens of it; the last `last` queries see all that the attention
    allows. All three are in tokens and widened to whole blocks. They stand behind the name, `tri_shape:512` or `tri_shape:512:128:64`;
    `sinks` and `last` are one block each where they are not given, and with `last` 0 the shape is that of StreamingLLM, a Λ.

    Without a window it is the widest that keeps at most the density asked for. A density that is too small for a window of one block leaves
    out the last queries, and one that is too small for the sinks leaves out these, too.
    """

    examples = ({}, {"window": 5}, {"window": 9, "sinks": 10, "last": 0})

    window: int | None = None
    sinks: int | None = None
    last: int | None = None

    def choose(self, asked: Asked) -> Choice:
        distance, sinks, last = distances(asked), self._sinks(asked), self._last(asked)
        if self.window is not None:
            return choice((distance <= whole_blocks(self.window, asked)) | sinks | last, asked)

        def keep(reach: int) -> Tensor:
            return sinks | (last & (reach >= 0)) | (distance <= reach)

        return choice(widest(range(-1, len(distance)), keep, asked), asked)

    def _sinks(self, asked: Asked) -> Tensor:
        """bool[1, key_blocks]"""
        count = 1 if self.sinks is None else whole_blocks(self.sinks, asked)
        return (torch.arange(asked.grid.blocks(asked.block)) < count)[None, :]

    def _last(self, asked: Asked) -> Tensor:
        """bool[query_blocks, 1]"""
        blocks = asked.grid.blocks(asked.block)
        first = blocks - 1 if self.last is None else (asked.grid.tokens - self.last) // asked.block
        return (torch.arange(blocks) >= (blocks if self.last == 0 else first))[:, None]
