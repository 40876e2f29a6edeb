"""N:M: the positions within groups are bit-packed, and there are no row pointers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from sparsecc.bits import numbers_of_bytes, pack_bits
from sparsecc.formats._index import required
from sparsecc.formats.base import Format, Packed
from sparsecc.formats.primitives import Ops, T
from sparsecc.patterns.nm import NM

GROUPS = range(2, 33)  # what a mask is tried with
SAMPLE_ROWS = 64  # a mask of another pattern fills a group within these rows, so that its other rows need no look


class NMFormat(Format[NM]):
    """values: T[rows, cols/m*n].  index: uint8[rows, ceil(cols/m*n * bits/8)], the position of each value within its group,
    ascending, `bits` wide, the first in the lowest bits of a byte; every row starts on a byte."""

    stores = NM
    tensor_names = ("values", "index")
    examples = NM.examples

    @classmethod
    def fits(cls, keep: Tensor) -> list[tuple[Self, int]]:
        rows, cols = keep.shape
        found = []
        for m in GROUPS:
            if cols % m or _fullest(keep[:SAMPLE_ROWS], m) == m:
                continue
            n = max(1, _fullest(keep, m))
            if n < m:
                found.append((cls(NM(n, m)), rows * cols // m * n))
        return found

    @property
    def bits(self) -> int:
        """Bits of one position: the smallest of 1, 2, 4, 8 that can say m - 1."""
        return next(bits for bits in (1, 2, 4, 8) if 2**bits >= self.pattern.m)

    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        n, m = self.pattern.n, self.pattern.m
        stored = required(self.pattern.cover(keep))
        rows, cols = weight.shape
        values = torch.where(keep, weight, weight.new_zeros(()))[stored].reshape(rows, cols // m * n)
        groups = self.pattern.groups(stored)
        positions = torch.arange(m, dtype=torch.uint8, device=keep.device).expand(groups.shape)[groups]
        return Packed(self, rows, cols, {"values": values, "index": pack_bits(positions.reshape(values.shape), self.bits)})

    def decode(self, ops: Ops[T], tensors: Mapping[str, T]) -> T:
        values, n, m = tensors["values"], self.pattern.n, self.pattern.m
        # What each byte says is looked up: half the time of dividing, in onnxruntime. int32, for there are as many as values.
        slots = ops.lookup(numbers_of_bytes(self.bits), tensors["index"])
        slots = ops.reshape(slots, ops.concat(ops.rows, ops.ints(-1)))
        slots = ops.slice(slots, ops.ints(0), ops.shape(values, start=1), axis=1)  # a row is padded to whole bytes
        groups = ops.div(ops.mul(ops.rows, ops.cols), ops.ints(m))
        empty = ops.zeros(values, ops.concat(groups, ops.ints(m)))
        slots, values = (ops.reshape(x, ops.ints(-1, n)) for x in (slots, values))
        return ops.reshape(ops.scatter(empty, slots, values, axis=1), ops.concat(ops.rows, ops.cols))

    def extents(self, ops: Ops[T], tensors: Mapping[str, T]) -> Sequence[T]:
        return ops.rows, ops.div(ops.mul(ops.cols, ops.ints(self.pattern.n)), ops.ints(self.pattern.m))

    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        per_row = kept // rows
        return rows * (per_row * itemsize + -(-per_row * self.bits // 8))


def _fullest(keep: Tensor, m: int) -> int:
    """The most that any group of m keeps."""
    return int(keep.view(torch.uint8).reshape(keep.shape[0], -1, m).sum(dim=2, dtype=torch.uint8).max())
