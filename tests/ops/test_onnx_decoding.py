"""Each primitive of decoding means the same in a function of an ONNX file as in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparsecc.formats._torch_ops import TorchOps
from tests.ops.decoding import written

ROWS, COLS = 4, 6
TENSORS = {
    "x": torch.arange(24.0).reshape(4, 6),
    "bytes": torch.tensor([[3, 0], [1, 2]], dtype=torch.uint8),
    "index": torch.tensor([2, 0, 2, 1]),
    "columns": torch.tensor([1, 0, 1, 2], dtype=torch.uint16),
    "row_ptr": torch.tensor([0, 1, 1, 4, 4], dtype=torch.int32),
    "values": torch.tensor([5.0, 6, 7, 8]),
    "units": torch.arange(1.0, 17).reshape(4, 2, 2),
}
TABLE = np.arange(8, dtype=np.int32).reshape(4, 2)
PRIMITIVES: dict[str, Callable[[Any, Any], Any]] = {
    "rows and cols": lambda ops, t: ops.concat(ops.rows, ops.cols),
    "ints": lambda ops, t: ops.ints(3, -1),
    "shape": lambda ops, t: ops.shape(t["units"]),
    "shape from": lambda ops, t: ops.shape(t["units"], start=1),
    "shape up to": lambda ops, t: ops.shape(t["units"], end=1),
    "reshape": lambda ops, t: ops.reshape(t["x"], ops.concat(ops.cols, ops.ints(-1))),
    "concat": lambda ops, t: ops.concat(t["values"], t["values"]),
    "slice": lambda ops, t: ops.slice(t["x"], ops.ints(1), ops.rows),
    "slice of columns": lambda ops, t: ops.slice(t["x"], ops.ints(0), ops.ints(2), axis=1),
    "int64": lambda ops, t: ops.int64(t["columns"]),
    "add": lambda ops, t: ops.add(t["index"], ops.rows),
    "mul": lambda ops, t: ops.mul(ops.rows, ops.cols),
    "div": lambda ops, t: ops.div(t["index"], ops.ints(2)),
    "cumsum": lambda ops, t: ops.cumsum(t["index"]),
    "zeros": lambda ops, t: ops.zeros(t["values"], ops.concat(ops.ints(2), ops.cols)),
    "gather": lambda ops, t: ops.gather(t["values"], ops.reshape(t["index"], ops.ints(2, 2))),
    "lookup": lambda ops, t: ops.lookup(TABLE, t["bytes"]),
    "scatter": lambda ops, t: ops.scatter(ops.zeros(t["x"], ops.ints(7)), ops.add(t["index"], ops.int64(t["columns"])), t["values"]),
    "scatter in rows": lambda ops, t: ops.scatter(t["x"], *(ops.reshape(t[name], ops.ints(4, 1)) for name in ("index", "values")), axis=1),
    "row_of_each": lambda ops, t: ops.row_of_each(t["row_ptr"], ops.shape(t["values"])),
    "place": lambda ops, t: ops.place(t["values"], ops.row_of_each(t["row_ptr"], ops.shape(t["values"])), t["columns"]),
    "place of units": lambda ops, t: ops.place(t["units"], ops.div(ops.int64(t["columns"]), ops.ints(2)), t["index"], unit=(2, 2)),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_it_means_the_same_in_both_worlds(name: str) -> None:
    found = PRIMITIVES[name](TorchOps(ROWS, COLS), TENSORS)
    found = found if isinstance(found, torch.Tensor) else torch.tensor(found.astype(np.int64))
    torch.testing.assert_close(written(PRIMITIVES[name], TENSORS, ROWS, COLS), found, rtol=0, atol=0, check_dtype=name != "lookup")
