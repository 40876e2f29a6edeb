"""Arrays where generated code can read them: it uses aligned vector loads, and TVM refuses less."""

from __future__ import annotations

import math
import mmap

import numpy as np

ALIGNMENT = 64  # bytes
_OWN_PAGES = 1 << 18  # bytes from which an array gets pages of its own: between blocks that come and go it would keep the heap large


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes >= _OWN_PAGES:
        return np.frombuffer(mmap.mmap(-1, nbytes), dtype).reshape(shape)
    buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """Contiguous, in native byte order, and nobody else's memory."""
    copy = aligned_empty(array.shape, array.dtype.newbyteorder("="))
    copy[...] = array
    return copy


def readable(array: np.ndarray) -> bool:
    """Whether generated code can read the array where it lies."""
    flags = array.flags
    return flags.c_contiguous and flags.writeable and array.dtype.isnative and array.ctypes.data % ALIGNMENT == 0


def in_place(array: np.ndarray) -> np.ndarray:
    """The array itself if it is `readable`, otherwise an aligned copy."""
    return array if readable(array) else aligned_copy(array)
