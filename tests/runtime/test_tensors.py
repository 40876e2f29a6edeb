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


def test_inputs_that_have_to_be_copied_go_to_the_same_memory_every_time():
    staging, misplaced = tensors.Staging(), unaligned(np.arange(6, dtype=np.float32).reshape(2, 3))
    first = staging.to_tvm(0, misplaced)
    assert np.array_equal(np.from_dlpack(first), misplaced)
    again = staging.to_tvm(0, unaligned(misplaced + 1))
    assert tensors.address(again) == tensors.address(first) and np.array_equal(np.from_dlpack(again), misplaced + 1)
    assert tensors.address(staging.to_tvm(1, misplaced)) != tensors.address(first)
    other = staging.to_tvm(0, unaligned(np.zeros((3, 2), np.float64)))
    assert other.dtype == "float64" and tuple(other.shape) == (3, 2)


def unaligned(array):
    buffer = np.empty(array.nbytes + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + 16
    view = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view
