from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen.alignment import ALIGNMENT, aligned_copy, aligned_empty, in_place


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (1 << 18, 3)])
def test_empty_arrays_are_aligned_and_can_be_written(shape):
    array = aligned_empty(shape, np.dtype("float32"))
    assert array.shape == shape and array.flags.writeable and array.flags.c_contiguous
    assert not array.size or array.ctypes.data % ALIGNMENT == 0
    array[...] = 1
    assert (array == 1).all()


def test_an_aligned_array_stays_where_it_is():
    array = aligned_empty((3, 5), np.dtype("float32"))
    assert in_place(array) is array


def test_other_arrays_are_copied():
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    copy = in_place(array)
    assert copy.dtype == np.float32 and np.array_equal(copy, array) and copy.ctypes.data % ALIGNMENT == 0


def test_a_copy_is_nobody_elses_memory():
    array = aligned_empty((4,), np.dtype("int32"))
    assert not np.shares_memory(aligned_copy(array), array)
