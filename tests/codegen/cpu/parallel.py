"""A function of generated code that all threads of a pool work at."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from sparsecc.codegen import tvm_api


def doubled() -> bool:
    """Whether it computes what it should."""
    x, y = np.arange(64 * 1024, dtype=np.float32).reshape(64, 1024), np.zeros((64, 1024), np.float32)
    tensors = [tvm_api.tensor(array) for array in (x, y)]
    _function()(*tensors)
    return np.array_equal(tensors[1].numpy(), 2 * x)


@functools.cache
def _function():
    import tvm
    from tvm import te

    x = te.placeholder((64, 1024), name="x")
    tensors: list[Any] = [x, te.compute(x.shape, lambda i, j: 2 * x[i, j], name="y")]
    schedule = tvm_api.s_tir.Schedule(te.create_prim_func(tensors))
    schedule.parallel(schedule.get_loops(schedule.get_sblock("y"))[0])
    return tvm.compile(schedule.mod, target=tvm.target.Target("llvm"))["main"]
