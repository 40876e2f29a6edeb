"""The primitives of decoding, computed by torch. Sizes that do not fit are errors, as they come from damaged files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class TorchOps:
    """rows, cols: of the matrix. Raises ValueError, IndexError or RuntimeError for tensors that do not fit each other.

    Sizes are numpy arrays of Python's or torch's symbolic integers: a tracer could not read a shape out of a tensor.
    """

    def __init__(self, rows: int, cols: int) -> None:
        self.rows, self.cols = self.ints(rows), self.ints(cols)

    def ints(self, *values: int) -> Any:
        return np.array(values, dtype=object)

    def shape(self, x: Tensor, start: int = 0, end: int | None = None) -> Any:
        return self.ints(*x.shape[start:end])

    def reshape(self, x: Tensor, shape: Any) -> Tensor:
        return x.reshape(tuple(shape))

    def concat(self, *parts: Any) -> Any:
        return torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)

    def slice(self, x: Tensor, start: Any, stop: Any, axis: int = 0) -> Tensor:
        [first], [end] = start, stop
        if not 0 <= first <= end <= x.shape[axis]:
            raise ValueError(f"{first} to {end} is outside of {x.shape[axis]} entries")
        return x.narrow(axis, first, end - first)

    def int64(self, x: Tensor) -> Tensor:
        return x.long()

    def add(self, a: Any, b: Any) -> Any:
        a, b = _alike(a, b)
        return a + b

    def mul(self, a: Any, b: Any) -> Any:
        a, b = _alike(a, b)
        return a * b

    def div(self, a: Any, b: Any) -> Any:
        a, b = _alike(a, b)
        return a // b

    def cumsum(self, x: Tensor) -> Tensor:
        return x.cumsum(0)

    def zeros(self, like: Tensor, shape: Any) -> Tensor:
        return like.new_zeros(tuple(shape))

    def gather(self, x: Tensor, index: Tensor) -> Tensor:
        return x[index.long()]

    def lookup(self, table: np.ndarray, index: Tensor) -> Tensor:
        return torch.from_numpy(table).to(index.device)[index.long()]

    def scatter(self, into: Tensor, index: Tensor, values: Tensor, axis: int = 0) -> Tensor:
        around = [tuple(x.shape[:axis] + x.shape[axis + 1 :]) for x in (into, index)]
        if index.shape != values.shape or around[0] != around[1]:
            raise ValueError(f"values {tuple(values.shape)} at places {tuple(index.shape)} do not fit {tuple(into.shape)}")
        return into.scatter(axis, index.long(), values)

    def row_of_each(self, row_ptr: Tensor, count: Any) -> Tensor:
        [wanted] = count
        counts = row_ptr.long().diff()
        rows = torch.arange(len(counts), device=row_ptr.device).repeat_interleave(counts)
        if len(rows) != wanted:
            raise ValueError(f"row pointers count {len(rows)} stored units, there are {wanted}")
        return rows

    def place(self, values: Tensor, row: Tensor, col: Tensor, unit: tuple[int, int] = (1, 1)) -> Tensor:
        [rows], [cols], (r, c) = self.rows, self.cols, unit
        units = values.new_zeros(rows // r, cols // c, r, c)
        units[row, col.long()] = values.reshape(-1, 1, 1) if unit == (1, 1) else values
        return units.transpose(1, 2).reshape(rows, cols)


def _alike(*operands: Any) -> list[Any]:
    """Sizes beside a tensor become one."""
    tensor = next((x for x in operands if isinstance(x, Tensor)), None)
    if tensor is None:
        return list(operands)
    return [x if isinstance(x, Tensor) else torch.tensor([int(size) for size in x], device=tensor.device) for x in operands]
