"""Blocks of r rows × c columns, kept or dropped whole: one column index per block."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import RecipeError, Refused
from sparsecc.formats._index import check_stored, column_dtype, kept_columns, kept_rows, row_pointers
from sparsecc.formats.base import Format, Packed
from sparsecc.top import keep_top

EXTENTS = (1, 2, 4, 8, 16, 32)  # what a mask with stray zeros is tried with
MAX_EXTENT = 64  # above, the index is below 1 % of the bytes and a larger block saves nothing


@dataclass(frozen=True)
class Block(Format):
    """values: T[blocks, r, c], block rows first, ascending block columns within.  cols: uint16[blocks], in block columns
    (int32 above 65535 block columns).  row_ptr: int32[rows/r + 1], in blocks."""

    tensor_names = ("values", "cols", "row_ptr")

    r: int
    c: int

    @property
    def pattern(self) -> str:
        return f"{self.r}x{self.c}"

    @classmethod
    def parse(cls, pattern: str) -> Self | None:
        shape = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", pattern)
        if shape is None:
            return None
        r, c = int(shape[1]), int(shape[2])
        if not r or not c:
            raise RecipeError(f"pattern: {pattern!r} is empty, a block has at least one row and one column")
        if r == c == 1:
            raise RecipeError("pattern: '1x1', blocks of one weight, is 'unstructured'; write that")
        return cls(r, c)

    @classmethod
    def fits(cls, keep: Tensor) -> list[tuple[Self, int]]:
        """The largest blocks that hold the mask exactly, and all of EXTENTS with zeros filled up."""
        stored = {_exact_shape(keep): int(keep.count_nonzero())}
        by_rows = keep
        for r in EXTENTS:
            if keep.shape[0] % r:
                break
            by_rows = by_rows[0::2] | by_rows[1::2] if r > 1 else by_rows
            blocks = by_rows
            for c in EXTENTS:
                if keep.shape[1] % c:
                    break
                blocks = blocks[:, 0::2] | blocks[:, 1::2] if c > 1 else blocks
                stored[r, c] = int(blocks.count_nonzero()) * r * c
        return [(cls(r, c), n) for (r, c), n in stored.items() if r * c > 1 and not cls(r, c).check(*keep.shape)]

    @property
    def unit_size(self) -> int:
        return self.r * self.c

    @property
    def part(self) -> tuple[int, int]:
        return self.r, self.c

    def unit_scores(self, score: Tensor) -> Tensor:
        # contiguous first: the order of a sum follows the strides, and a transposed weight must give the same mask
        return self._blocks(score.contiguous()).sum(dim=(2, 3)).reshape(-1)

    def check(self, rows: int, cols: int) -> Refused | None:
        if rows % self.r:
            return Refused(f"{rows} rows (outputs) are no multiple of {self.r}, {self.pattern} blocks need that")
        if cols % self.c:
            return Refused(f"{cols} columns (inputs) are no multiple of {self.c}, {self.pattern} blocks need that")
        return check_stored(rows * cols // self.unit_size)

    def project(self, score: Tensor, sparsity: float) -> Tensor:
        scores = self.unit_scores(score)
        keep = keep_top(scores, round(sparsity * scores.numel()))
        return self._expand(keep.reshape(score.shape[0] // self.r, score.shape[1] // self.c))

    def holds(self, keep: Tensor) -> Refused | None:
        refused = self.check(*keep.shape)
        if refused is not None:
            return refused
        mixed = self._any(keep) & ~self._blocks(keep).all(dim=3).all(dim=2)
        broken = int(mixed.count_nonzero())
        return Refused(f"{broken} of {mixed.numel()} blocks of {self.pattern} are neither kept nor dropped whole") if broken else None

    def cover(self, keep: Tensor) -> Tensor | Refused:
        return self.check(*keep.shape) or self._expand(self._any(keep))

    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        blocks = self._any(keep)
        values = self._blocks(torch.where(keep, weight, weight.new_zeros(())))[blocks].contiguous()
        rows, cols = weight.shape
        return Packed(self, rows, cols, {"values": values, "cols": kept_columns(blocks), "row_ptr": row_pointers(blocks)})

    def unpack(self, packed: Packed) -> Tensor:
        values = packed.tensors["values"]
        blocks = values.new_zeros(packed.rows // self.r, packed.cols // self.c, self.r, self.c)
        blocks[kept_rows(packed.tensors["row_ptr"]), packed.tensors["cols"].long()] = values
        return blocks.transpose(1, 2).reshape(packed.rows, packed.cols)

    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        index = column_dtype(cols // self.c).itemsize
        return kept * itemsize + kept // self.unit_size * index + (rows // self.r + 1) * torch.int32.itemsize

    def _blocks(self, matrix: Tensor) -> Tensor:
        """[rows, cols] → [rows/r, cols/c, r, c]."""
        rows, cols = matrix.shape
        return matrix.reshape(rows // self.r, self.r, cols // self.c, self.c).transpose(1, 2)

    def _any(self, keep: Tensor) -> Tensor:
        return self._blocks(keep).any(dim=3).any(dim=2)

    def _expand(self, blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(self.r, dim=0).repeat_interleave(self.c, dim=1)


def _exact_shape(keep: Tensor) -> tuple[int, int]:
    """The largest (r, c), each up to MAX_EXTENT, whose blocks the mask keeps or drops whole."""
    return _extent(keep), _extent(keep.t())


def _extent(keep: Tensor) -> int:
    """The mask changes from row to row only at multiples of the result."""
    changes = (keep[1:] != keep[:-1]).any(dim=1).nonzero().squeeze(1) + 1
    period = math.gcd(keep.shape[0], *changes.tolist())
    return max(extent for extent in range(1, MAX_EXTENT + 1) if period % extent == 0)
