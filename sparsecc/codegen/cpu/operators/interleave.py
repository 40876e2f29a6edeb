"""Puts the phases of an image side by side, as a transposed convolution leaves them, and those of several in a row at once."""

import math
from dataclasses import dataclass

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class InterleaveSpec:
    """x: [batch · phases, channels, pitch] → [batch, channels, rows of all phases, columns of all phases].

    height, width: of one phase.  factors: (rows, columns) that each step made of one pixel, the first step first; the phases are in that
    order, too.  cols: from one row of a phase to the next, `width` when not given.  crop: rows and columns to leave out at the top left.
    sizes: rows and columns of the result, all that there are when not given.
    """

    batch: int
    channels: int
    height: int
    width: int
    pitch: int
    factors: tuple[tuple[int, int], ...]
    cols: int | None = None
    crop: tuple[int, int] = (0, 0)
    sizes: tuple[int, int] | None = None

    @property
    def phases(self) -> int:
        return math.prod(rows * cols for rows, cols in self.factors)

    @property
    def factor(self) -> tuple[int, int]:
        return math.prod(rows for rows, _ in self.factors), math.prod(cols for _, cols in self.factors)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        (rows, cols), (top, left) = self.factor, self.crop
        return self.batch, self.channels, *(self.sizes or (self.height * rows - top, self.width * cols - left))

    def phase(self, row, col):
        """Which phase holds the pixels at this row and column of each group of pixels."""
        digits = []
        for rows, cols in reversed(self.factors):
            digits.append((row % rows, col % cols, rows, cols))
            row, col = row // rows, col // cols
        found = 0
        for r, c, rows, cols in reversed(digits):
            found = (found * rows + r) * cols + c
        return found


def build(spec: InterleaveSpec, target: Target):
    """PrimFunc(x, y)."""
    height, pitch, channels, phases, (sh, sw) = spec.height, spec.pitch, spec.channels, spec.phases, spec.factor
    (top, left), (rows, columns), cols = spec.crop, spec.y_shape[2:], spec.cols or spec.width
    x_size, y_size = spec.batch * phases * channels * pitch, math.prod(spec.y_shape)
    first, last = -(-left // sw), (columns + left) // sw  # the pixels whose phases are all in the result

    @T.prim_func
    def interleave(x: T.Buffer((spec.batch * phases, channels, pitch), "float32"), y: T.Buffer(spec.y_shape, "float32")):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(spec.batch * channels * height):
            image: T.let = job // height
            source: T.let = (image // channels * phases * channels + image % channels) * pitch + job % height * cols
            for r in T.unroll(sh):
                row: T.let = job % height * sh + r - top
                if row >= 0 and row < rows:
                    start: T.let = (image * rows + row) * columns - left
                    for k in T.unroll(sw):
                        if k >= left and k - left < columns and first > 0:
                            Y[start + k] = X[source + spec.phase(r, k) * (channels * pitch)]
                    for c in range(T.max(last - first, 0)):
                        for k in T.unroll(sw):  # side by side, so that LLVM shuffles whole vectors
                            Y[start + (c + first) * sw + k] = X[source + spec.phase(r, k) * (channels * pitch) + c + first]
                    for k in T.unroll(sw):
                        if last >= first and last * sw + k - left < columns:
                            Y[start + last * sw + k] = X[source + spec.phase(r, k) * (channels * pitch) + last]

    return interleave
