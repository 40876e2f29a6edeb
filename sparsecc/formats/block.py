"""Blocks of r rows × c columns: one column index per block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.formats._index import check_stored, column_dtype, kept_columns, row_pointers
from sparsecc.formats.base import Format, Packed
from sparsecc.formats.primitives import Ops, T
from sparsecc.patterns.block import Block

EXTENTS = (1, 2, 4, 8, 16, 32)  # what a mask with stray zeros is tried with
MAX_EXTENT = 64  # above, the index is below 1 % of the bytes and a larger block saves nothing


class BlockFormat(Format[Block]):
    """values: T[blocks, r, c], block rows first, ascending block columns within.  cols: uint16[blocks], in block columns
    (int32 above 65535 block columns).  row_ptr: int32[rows/r + 1], in blocks."""

    stores = Block
    tensor_names = ("values", "cols", "row_ptr")
    examples = Block.examples

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
        found = [(cls(Block(r, c)), n) for (r, c), n in stored.items() if r * c > 1]
        return [(format, n) for format, n in found if not format.check(*keep.shape)]

    def check(self, rows: int, cols: int) -> Refused | None:
        return self.pattern.check(rows, cols) or check_stored(rows * cols // self.pattern.unit_size)

    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        blocks = self.pattern.kept(keep)
        values = self.pattern.blocks(torch.where(keep, weight, weight.new_zeros(())))[blocks].contiguous()
        rows, cols = weight.shape
        return Packed(self, rows, cols, {"values": values, "cols": kept_columns(blocks), "row_ptr": row_pointers(blocks)})

    def decode(self, ops: Ops[T], tensors: Mapping[str, T]) -> T:
        values = tensors["values"]
        row = ops.row_of_each(tensors["row_ptr"], ops.shape(values, end=1))
        return ops.place(values, row, tensors["cols"], unit=(self.pattern.r, self.pattern.c))

    def extents(self, ops: Ops[T], tensors: Mapping[str, T]) -> Sequence[T]:
        return ops.shape(tensors["cols"]), ops.ints(self.pattern.r), ops.ints(self.pattern.c)

    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        r, c = self.pattern.r, self.pattern.c
        return kept * itemsize + kept // (r * c) * column_dtype(cols // c).itemsize + (rows // r + 1) * torch.int32.itemsize


def _exact_shape(keep: Tensor) -> tuple[int, int]:
    """The largest (r, c), each up to MAX_EXTENT, whose blocks the mask keeps or drops whole."""
    return _extent(keep), _extent(keep.t())


def _extent(keep: Tensor) -> int:
    """The mask changes from row to row only at multiples of the result."""
    changes = (keep[1:] != keep[:-1]).any(dim=1).nonzero().squeeze(1) + 1
    period = math.gcd(keep.shape[0], *changes.tolist())
    return max(extent for extent in range(1, MAX_EXTENT + 1) if period % extent == 0)
