"""Rows of images copied by whole vectors: the last one overlaps the one before it, so that there is no scalar rest.

`at` arguments are offsets in flat buffers.
"""

from dataclasses import dataclass

from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class Row:
    """How rows of `width` pixels, `apart` elements from each other, become padded rows of `cols`, of which there is one per phase:

    element c of phase j is pixel c·step + j - left. A negative `left` leaves out pixels; it may leave out all of them.
    """

    width: int
    cols: int
    left: int = 0
    step: int = 1
    apart: int = 1

    @property
    def contiguous(self) -> bool:
        return (self.step, self.apart) == (1, 1)

    @property
    def before(self) -> int:
        """Elements of a padded row before its first pixel."""
        return max(self.left, 0)

    @property
    def skipped(self) -> int:
        """Pixels before the first one in a padded row."""
        return max(-self.left, 0)

    @property
    def count(self) -> int:
        """Pixels of a padded row where it is contiguous."""
        return max(min(self.width - self.skipped, self.cols - self.before), 0)

    @property
    def padded(self) -> bool:
        return not self.contiguous or self.count < self.cols


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


@T.inline
def pad_row(y, y_at, x, x_at, inside, j, row, filling, lanes):
    """Phase j of a padded row, whose pixels begin at x_at; `filling` alone where the row is not `inside` the image.

    The filling goes below the pixels: a second store costs less than borders of a width that no vector has.
    """
    if row.padded:
        fill_row(y, y_at, filling, row.cols, lanes)
    if inside:
        if row.contiguous:
            if row.count > 0:
                copy_row(y, y_at + row.before, x, x_at + row.skipped, row.count, lanes)
        else:
            for c in range(
                T.min((row.width + row.left - j + row.step - 1) // row.step, row.cols) - T.max((row.left - j + row.step - 1) // row.step, 0)
            ):
                y[y_at + T.max((row.left - j + row.step - 1) // row.step, 0) + c] = x[
                    x_at + ((T.max((row.left - j + row.step - 1) // row.step, 0) + c) * row.step + j - row.left) * row.apart
                ]
    elif not row.padded:
        fill_row(y, y_at, filling, row.cols, lanes)
