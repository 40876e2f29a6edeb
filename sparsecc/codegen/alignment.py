"""Arrays where generated code can read them: it uses aligned vector loads, and TVM refuses less."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress

import numpy as np

ALIGNMENT = 64  # bytes
_OWN_PAGES = 1 << 18  # bytes from which an array gets pages of its own: between blocks that come and go it would keep the heap large
_HUGE = 1 << 22  # bytes from which large pages are asked for: reading an artifact of 420 MB into them took 0.5 s, into small ones 1.2


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes >= _OWN_PAGES:
        # private, so that a forked child that writes to it (where inputs are laid out for each call) does not write to its parent's
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                pages.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(pages, dtype).reshape(shape)
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
