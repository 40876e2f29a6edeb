"""The primitives of decoding, computed by torch. Sizes that do not fit are errors, as they come from damaged files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class TorchOps:
    """rows, cols: of the matrix. Raises ValueError, IndexError or RuntimeError for tensors that do not fit each other."""

    def __init__(self, rows: int, cols: int) -> None:
        self.rows, self.cols = self.ints(rows), self.ints(cols)

    def ints(self, *values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    def shape(self, x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        return self.ints(*x.shape[start:end])

    def reshape(self, x: Tensor, shape: Tensor) -> Tensor:
        return x.reshape(shape.tolist())

    def concat(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts)

    def slice(self, x: Tensor, start: Tensor, stop: Tensor, axis: int = 0) -> Tensor:
        first, end = int(start), int(stop)
        if not 0 <= first <= end <= x.shape[axis]:
            raise ValueError(f"{first} to {end} is outside of {x.shape[axis]} entries")
        return x.narrow(axis, first, end - first)

    def int64(self, x: Tensor) -> Tensor:
        return x.long()

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def div(self, a: Tensor, b: Tensor) -> Tensor:
        return a // b

    def cumsum(self, x: Tensor) -> Tensor:
        return x.cumsum(0)

    def zeros(self, like: Tensor, shape: Tensor) -> Tensor:
        return like.new_zeros(shape.tolist())

    def gather(self, x: Tensor, index: Tensor) -> Tensor:
        return x[index.long()]

    def lookup(self, table: np.ndarray, index: Tensor) -> Tensor:
        return torch.from_numpy(table).to(index.device)[index.long()]

    def scatter(self, into: Tensor, index: Tensor, values: Tensor, axis: int = 0) -> Tensor:
        around = [tuple(x.shape[:axis] + x.shape[axis + 1 :]) for x in (into, index)]
        if index.shape != values.shape or around[0] != around[1]:
            raise ValueError(f"values {tuple(values.shape)} at places {tuple(index.shape)} do not fit {tuple(into.shape)}")
        return into.scatter(axis, index.long(), values)

    def row_of_each(self, row_ptr: Tensor, count: Tensor) -> Tensor:
        counts = row_ptr.long().diff()
        rows = torch.arange(len(counts), device=row_ptr.device).repeat_interleave(counts)
        if len(rows) != int(count):
            raise ValueError(f"row pointers count {len(rows)} stored units, there are {int(count)}")
        return rows

    def place(self, values: Tensor, row: Tensor, col: Tensor, unit: tuple[int, int] = (1, 1)) -> Tensor:
        rows, cols, (r, c) = int(self.rows), int(self.cols), unit
        units = values.new_zeros(rows // r, cols // c, r, c)
        units[row, col.long()] = values.reshape(-1, 1, 1) if unit == (1, 1) else values
        return units.transpose(1, 2).reshape(rows, cols)
