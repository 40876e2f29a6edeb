from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.codegen.alignment import aligned_empty
from sparsecc.runtime import tensors


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "uint16", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (4, 5)])
def test_round_trip(dtype, shape):
    array = (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(dtype)
    assert np.array_equal(tensors.to_host(tensors.to_tvm(array), as_torch=False), array)
    back = tensors.to_host(tensors.to_tvm(torch.from_numpy(array)), as_torch=True)
    assert isinstance(back, torch.Tensor) and np.array_equal(back.numpy(), array)


def test_aligned_arrays_are_not_copied():
    array = aligned_empty((3, 5), np.dtype("float32"))
    assert tensors.address(tensors.to_tvm(array)) == array.ctypes.data


def test_memory_that_is_taken_is_copied():
    array = aligned_empty((3,), np.dtype("float32"))
    array[:] = 1
    out = tensors.to_host(tensors.to_tvm(array), as_torch=False, taken={array.ctypes.data})
    array[:] = 2
    assert np.array_equal(out, np.ones(3))
