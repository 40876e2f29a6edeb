"""Puts the phases of an image side by side, as a transposed convolution leaves them, and those of several in a row at once."""

import math
from dataclasses import dataclass

from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class InterleaveSpec:
    """x: [batch · phases, channels, pitch] → [batch, channels, rows of all phases, columns of all phases].

    height, width: of one phase.  factors: (rows, columns) that each step made of one pixel, the first step first; the phases are in that
    order, too.
    """

    batch: int
    channels: int
    height: int
    width: int
    pitch: int
    factors: tuple[tuple[int, int], ...]

    @property
    def phases(self) -> int:
        return math.prod(rows * cols for rows, cols in self.factors)

    @property
    def factor(self) -> tuple[int, int]:
        return math.prod(rows for rows, _ in self.factors), math.prod(cols for _, cols in self.factors)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.height * self.factor[0], self.width * self.factor[1]

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
    height, width, pitch, channels, phases, (sh, sw) = spec.height, spec.width, spec.pitch, spec.channels, spec.phases, spec.factor
    x_size, y_size = spec.batch * phases * channels * pitch, math.prod(spec.y_shape)

    @T.prim_func
    def interleave(x: T.Buffer((spec.batch * phases, channels, pitch), "float32"), y: T.Buffer(spec.y_shape, "float32")):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(spec.batch * channels * height):
            image: T.let = job // height
            source: T.let = (image // channels * phases * channels + image % channels) * pitch + job % height * width
            for r in T.unroll(sh):
                for c in range(width):
                    for k in T.unroll(sw):  # side by side, so that LLVM shuffles whole vectors
                        Y[(job * sh + r) * (width * sw) + c * sw + k] = X[source + spec.phase(r, k) * (channels * pitch) + c]

    return interleave
