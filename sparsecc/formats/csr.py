"""Compressed sparse rows: any mask, one column index per kept weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.formats._index import check_stored, column_dtype, kept_columns, row_pointers
from sparsecc.formats.base import Format, Packed
from sparsecc.formats.primitives import Ops, T
from sparsecc.patterns.unstructured import Unstructured


class Csr(Format[Unstructured]):
    """values: T[nnz], row by row.  cols: uint16[nnz] (int32 above 65535 columns).  row_ptr: int32[rows + 1]."""

    stores = Unstructured
    tensor_names = ("values", "cols", "row_ptr")
    examples = ("",)

    @classmethod
    def fits(cls, keep: Tensor) -> list[tuple[Self, int]]:
        format = cls(Unstructured())
        return [] if format.check(*keep.shape) else [(format, int(keep.count_nonzero()))]

    def check(self, rows: int, cols: int) -> Refused | None:
        return check_stored(rows * cols)

    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        rows, cols = weight.shape
        tensors = {"values": weight[keep], "cols": kept_columns(keep), "row_ptr": row_pointers(keep)}
        return Packed(self, rows, cols, tensors)

    def decode(self, ops: Ops[T], tensors: Mapping[str, T]) -> T:
        values = tensors["values"]
        row = ops.row_of_each(tensors["row_ptr"], ops.shape(values))
        return ops.place(values, row, tensors["cols"])

    def extents(self, ops: Ops[T], tensors: Mapping[str, T]) -> Sequence[T]:
        return (ops.shape(tensors["cols"]),)

    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        return kept * (itemsize + column_dtype(cols).itemsize) + (rows + 1) * torch.int32.itemsize
