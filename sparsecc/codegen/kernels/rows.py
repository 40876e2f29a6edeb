"""Rows of any length copied and filled by whole vectors: the last one overlaps the one before it, so that there is no scalar rest.

`at` arguments are offsets in flat buffers.
"""

from sparsecc.codegen.kernels.base import ceil_div
from sparsecc.codegen.tvm_api import T


def width_for(count: int, lanes: int) -> int:
    """The widest vector of at most `lanes` values, a power of two, that fits into a row of `count`."""
    return min(lanes, 1 << (count.bit_length() - 1))


@T.inline
def copy_row(y, y_at, x, x_at, count, lanes):
    """y[y_at + i] = x[x_at + i], i < count"""
    for v in range(ceil_div(count, width_for(count, lanes))):
        for l in T.vectorized(width_for(count, lanes)):
            y[y_at + T.min(v * width_for(count, lanes), count - width_for(count, lanes)) + l] = x[
                x_at + T.min(v * width_for(count, lanes), count - width_for(count, lanes)) + l
            ]


@T.inline
def fill_row(y, y_at, value, count, lanes):
    """y[y_at + i] = value, i < count"""
    for v in range(ceil_div(count, width_for(count, lanes))):
        for l in T.vectorized(width_for(count, lanes)):
            y[y_at + T.min(v * width_for(count, lanes), count - width_for(count, lanes)) + l] = value
