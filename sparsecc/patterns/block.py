"""Blocks of r rows × c columns, kept or dropped whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparsecc.errors import RecipeError, Refused
from sparsecc.patterns.base import Pattern
from sparsecc.top import keep_top


@dataclass(frozen=True)
class Block(Pattern):
    """A recipe writes RxC: `4x1` keeps or drops 4 outputs of one input together. Blocks start at multiples of their size."""

    spelling = "RxC (as '4x1')"
    examples = ("4x1", "16x1", "1x4", "2x3")

    r: int
    c: int

    def __str__(self) -> str:
        return f"{self.r}x{self.c}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        shape = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
        if shape is None:
            return None
        r, c = int(shape[1]), int(shape[2])
        if not r or not c:
            raise RecipeError(f"pattern: {text!r} is empty, a block has at least one row and one column")
        if r == c == 1:
            raise RecipeError("pattern: '1x1', blocks of one weight, is 'unstructured'; write that")
        return cls(r, c)

    @property
    def unit_size(self) -> int:
        return self.r * self.c

    @property
    def part(self) -> tuple[int, int]:
        return self.r, self.c

    def unit_scores(self, score: Tensor) -> Tensor:
        # contiguous first: the order of a sum follows the strides, and a transposed weight must give the same mask
        return self.blocks(score.contiguous()).sum(dim=(2, 3)).reshape(-1)

    def check(self, rows: int, cols: int) -> Refused | None:
        if rows % self.r:
            return Refused(f"{rows} rows (outputs) are no multiple of {self.r}, {self} blocks need that")
        if cols % self.c:
            return Refused(f"{cols} columns (inputs) are no multiple of {self.c}, {self} blocks need that")
        return None

    def project(self, score: Tensor, sparsity: float) -> Tensor:
        scores = self.unit_scores(score)
        keep = keep_top(scores, round(sparsity * scores.numel()))
        return self._expand(keep.reshape(score.shape[0] // self.r, score.shape[1] // self.c))

    def holds(self, keep: Tensor) -> Refused | None:
        refused = self.check(*keep.shape)
        if refused is not None:
            return refused
        mixed = self.kept(keep) & ~self.blocks(keep).all(dim=3).all(dim=2)
        broken = int(mixed.count_nonzero())
        return Refused(f"{broken} of {mixed.numel()} blocks of {self} are neither kept nor dropped whole") if broken else None

    def cover(self, keep: Tensor) -> Tensor | Refused:
        return self.check(*keep.shape) or self._expand(self.kept(keep))

    def blocks(self, matrix: Tensor) -> Tensor:
        """[rows, cols] → [rows/r, cols/c, r, c]."""
        rows, cols = matrix.shape
        return matrix.reshape(rows // self.r, self.r, cols // self.c, self.c).transpose(1, 2)

    def kept(self, keep: Tensor) -> Tensor:
        """bool[rows/r, cols/c]: the blocks of which the mask keeps anything."""
        return self.blocks(keep).any(dim=3).any(dim=2)

    def _expand(self, blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(self.r, dim=0).repeat_interleave(self.c, dim=1)
