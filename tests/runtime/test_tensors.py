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
    first = staging.place(0, misplaced)
    assert np.array_equal(np.from_dlpack(first.tensor), misplaced) and np.array_equal(first.array, misplaced)
    again = staging.place(0, unaligned(misplaced + 1))
    assert again.address == first.address and np.array_equal(np.from_dlpack(again.tensor), misplaced + 1)
    assert staging.place(1, misplaced).address != first.address
    other = staging.place(0, unaligned(np.zeros((3, 2), np.float64)))
    assert other.tensor.dtype == "float64" and tuple(other.tensor.shape) == (3, 2)


@pytest.mark.parametrize("array", [aligned_empty((4,), np.dtype("float32")), torch.ones(5), np.zeros((0, 2), np.float32)])
def test_where_an_input_lies(array):
    placed = tensors.Staging().place(0, array)
    assert placed.address == tensors.address(placed.tensor) and tuple(placed.tensor.shape) == tuple(array.shape)
    assert placed.array is array


def unaligned(array):
    buffer = np.empty(array.nbytes + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + 16
    view = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view
