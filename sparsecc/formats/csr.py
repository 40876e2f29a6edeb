"""Compressed sparse rows: any mask, one column index per kept weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.formats._index import check_stored, column_dtype, kept_columns, kept_rows, row_pointers
from sparsecc.formats.base import Format, Packed
from sparsecc.top import keep_top


@dataclass(frozen=True)
class Csr(Format):
    """values: T[nnz], row by row.  cols: uint16[nnz] (int32 above 65535 columns).  row_ptr: int32[rows + 1]."""

    tensor_names = ("values", "cols", "row_ptr")

    @property
    def pattern(self) -> str:
        return "unstructured"

    @classmethod
    def parse(cls, pattern: str) -> Self | None:
        return cls() if pattern == "unstructured" else None

    @classmethod
    def fits(cls, keep: Tensor) -> list[tuple[Self, int]]:
        return [] if cls().check(*keep.shape) else [(cls(), int(keep.count_nonzero()))]

    def check(self, rows: int, cols: int) -> Refused | None:
        return check_stored(rows * cols)

    def project(self, score: Tensor, sparsity: float) -> Tensor:
        dropped = round(sparsity * score.numel())
        return keep_top(self.unit_scores(score), dropped).reshape(score.shape)

    def holds(self, keep: Tensor) -> Refused | None:
        return self.check(*keep.shape)

    def cover(self, keep: Tensor) -> Tensor | Refused:
        return keep

    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        rows, cols = weight.shape
        tensors = {"values": weight[keep], "cols": kept_columns(keep), "row_ptr": row_pointers(keep)}
        return Packed(self, rows, cols, tensors)

    def unpack(self, packed: Packed) -> Tensor:
        values = packed.tensors["values"]
        dense = values.new_zeros(packed.rows, packed.cols)
        dense[kept_rows(packed.tensors["row_ptr"]), packed.tensors["cols"].long()] = values
        return dense

    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        return kept * (itemsize + column_dtype(cols).itemsize) + (rows + 1) * torch.int32.itemsize
