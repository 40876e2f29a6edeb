"""What a format may decode with: the few operations that torch and a function of an ONNX file both have.

`Format.decode` is written over them once. `TorchOps` computes with them, `sparsecc.ops.onnx_decoding` writes each down as nodes. Sizes
and shapes are tensors too, int64[n], for a function of an ONNX file serves every shape.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

T = TypeVar("T")


class Ops(Protocol[T]):
    """T: a tensor, as the one who decodes has it.  rows, cols: int64[1], of the matrix."""

    @property
    def rows(self) -> T: ...

    @property
    def cols(self) -> T: ...

    def ints(self, *values: int) -> T:
        """int64[n] of these."""
        ...

    def shape(self, x: T, start: int = 0, end: int | None = None) -> T:
        """int64[axes]: the sizes of x from axis `start` up to `end`."""
        ...

    def reshape(self, x: T, shape: T) -> T:
        """One size may be -1: what is left."""
        ...

    def concat(self, *parts: T) -> T:
        """Along the first axis."""
        ...

    def slice(self, x: T, start: T, stop: T, axis: int = 0) -> T:
        """x from `start` up to `stop`, int64[1] each, 0 ≤ start ≤ stop ≤ the size of the axis."""
        ...

    def int64(self, x: T) -> T: ...

    def add(self, a: T, b: T) -> T: ...

    def mul(self, a: T, b: T) -> T: ...

    def div(self, a: T, b: T) -> T:
        """Of integers that are not negative, rounded down."""
        ...

    def cumsum(self, x: T) -> T:
        """Of int32 or int64 [n]: the sum up to each entry, itself included."""
        ...

    def zeros(self, like: T, shape: T) -> T:
        """Of the type of `like`."""
        ...

    def gather(self, x: T, index: T) -> T:
        """x[index], along the first axis. index: int32 or int64, of any shape."""
        ...

    def lookup(self, table: np.ndarray, index: T) -> T:
        """table[index] for a constant table. index: integers of any type and shape, below the table's length."""
        ...

    def scatter(self, into: T, index: T, values: T, axis: int = 0) -> T:
        """`into` with values[i, j] at [i, index[i, j]] (axis 1), or at [index[i, j], j] (axis 0). index, values: of one shape, that of
        `into` but for the axis."""
        ...

    def row_of_each(self, row_ptr: T, count: T) -> T:
        """int64[count]: the row of each stored unit. row_ptr: where each row's units start, and where the last row's end."""
        ...

    def place(self, values: T, row: T, col: T, unit: tuple[int, int] = (1, 1)) -> T:
        """The matrix [rows, cols], zeros but for values[i] in the unit at row row[i] and column col[i], both counted in units.
        unit: rows and columns of one.  values: [units, *unit], or [units] of single weights.  row: int64.  col: integers of any type."""
        ...


def torch_ops(rows: int, cols: int) -> Ops[Tensor]:
    """Those that compute, for a matrix of this size. They raise ValueError, IndexError or RuntimeError for tensors that do not fit each
    other."""
    from sparsecc.formats._torch_ops import TorchOps  # here, because it imports torch

    return TorchOps(rows, cols)


def numbers_in_bytes(ops: Ops[T], packed: T, extents: Sequence[T], width: int) -> T:
    """uint8 of the shape `extents`: the numbers that `pack_bits` has stored, `width` bits each, along all axes but the first (along the
    only one)."""
    from sparsecc.bits import numbers_of_bytes  # here, because it imports torch

    numbers = ops.lookup(numbers_of_bytes(width).astype("uint8"), packed)
    lines, line = ([], extents) if len(extents) == 1 else (extents[:1], extents[1:])
    axis, count = len(lines), functools.reduce(ops.mul, line)
    padded = ops.mul(ops.shape(packed, start=axis), ops.ints(8 // width))
    numbers = ops.slice(ops.reshape(numbers, ops.concat(*lines, padded)), ops.ints(0), count, axis=axis)
    return ops.reshape(numbers, ops.concat(*extents))
