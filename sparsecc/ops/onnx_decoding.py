"""The primitives with which formats decode (`sparsecc.formats.primitives`), written down as nodes of an ONNX function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from sparsecc.ops.onnx_body import Body, Value

if TYPE_CHECKING:
    from sparsecc.formats.base import Format


def decoded(body: Body, packed: Mapping[str, Value], format: Format[Any]) -> Value:
    """The matrix [rows, cols] of packed tensors."""
    return format.decode(OnnxOps(body), packed)


class OnnxOps:
    """Writes into a function's body. Rows and columns are those of the node that calls it."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.ints, self.concat, self.zeros = body.ints, body.concat, body.zeros

    @property
    def rows(self) -> Value:
        return self._body.rows

    @property
    def cols(self) -> Value:
        return self._body.cols

    def shape(self, x: Value, start: int = 0, end: int | None = None) -> Value:
        return self._body.op("Shape", x, **({"start": start} if start else {}), **({} if end is None else {"end": end}))

    def reshape(self, x: Value, shape: Value) -> Value:
        return self._body.op("Reshape", x, shape)

    def slice(self, x: Value, start: Value, stop: Value, axis: int = 0) -> Value:
        return self._body.op("Slice", x, start, stop, *([self.ints(axis)] if axis else []))

    def int64(self, x: Value) -> Value:
        return self._body.int64(x)

    def add(self, a: Value, b: Value) -> Value:
        return self._body.op("Add", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self._body.op("Mul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self._body.op("Div", a, b)

    def cumsum(self, x: Value) -> Value:
        return self._body.op("CumSum", x, self._body.scalar(0))

    def gather(self, x: Value, index: Value) -> Value:
        return self._body.op("Gather", x, index, axis=0)

    def lookup(self, table: np.ndarray, index: Value) -> Value:
        return self._body.op("Gather", self._body.tensor(table), self._body.op("Cast", index, to=int(ir.DataType.INT32)), axis=0)

    def scatter(self, into: Value, index: Value, values: Value, axis: int = 0) -> Value:
        return self._body.op("ScatterElements", into, index, values, axis=axis)

    def row_of_each(self, row_ptr: Value, count: Value) -> Value:
        """A one is added where a row starts, the running sum counts rows; empty rows start at the same place, so their ones add up."""
        op = self._body.op
        starts = self.int64(self.slice(row_ptr, self.ints(1), self.ints(-1)))
        marks = self.zeros(starts, self.add(count, self.ints(1)))  # trailing empty rows start one past the end
        ones = op("Expand", self._body.scalar(1), self.shape(starts))
        rows = self.cumsum(op("ScatterElements", marks, starts, ones, axis=0, reduction="add"))
        return self.slice(rows, self.ints(0), count)

    def place(self, values: Value, row: Value, col: Value, unit: tuple[int, int] = (1, 1)) -> Value:
        return self._weights(values, row, col) if unit == (1, 1) else self._units(values, row, col, unit)

    def _weights(self, values: Value, row: Value, col: Value) -> Value:
        flat = self.add(self.mul(row, self.cols), self.int64(col))
        empty = self.zeros(values, self.mul(self.rows, self.cols))
        return self.reshape(self.scatter(empty, flat, values), self.concat(self.rows, self.cols))

    def _units(self, values: Value, row: Value, col: Value, unit: tuple[int, int]) -> Value:
        op, (height, width) = self._body.op, unit
        place = op("Concat", *(op("Unsqueeze", index, self.ints(1)) for index in (row, self.int64(col))), axis=1)
        down, across = self.div(self.rows, self.ints(height)), self.div(self.cols, self.ints(width))
        units = op("ScatterND", self.zeros(values, self.concat(down, across, self.ints(height, width))), place, values)
        return self.reshape(op("Transpose", units, perm=[0, 2, 1, 3]), self.concat(self.rows, self.cols))
