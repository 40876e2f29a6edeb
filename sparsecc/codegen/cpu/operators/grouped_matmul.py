"""Rows that are each multiplied by one of several matrices, as data decide: the experts of a mixture.

    Y[s] = X[s] · W[expert[s]],  0 where there is no such matrix

A job holds a block of columns of a few neighbouring rows in registers. Rows come sorted by their expert, so that neighbours mostly share
one, and each vector of its weights is read once for all of them.
"""

from dataclasses import dataclass

from sparsecc.codegen.cpu.pieces.rows import width_for
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T

_GROUP, _VECTORS = 4, 4  # with 16 accumulators and a few vectors of weights, what an AVX-512 register file holds and AVX2 mostly does


@dataclass(frozen=True)
class GroupedSpec:
    """X [rows, depth], W [experts, depth, cols], Y [rows, cols]."""

    rows: int
    depth: int
    cols: int
    experts: int

    @property
    def group(self) -> int:
        """Rows of a job."""
        return next(n for n in (_GROUP, 2, 1) if self.rows % n == 0)


@T.inline
def _multiplied(acc, x, weight, first, count, expert, column, depth, vectors, width):
    """acc[i] += x[first + i] · weight[expert], i < count, of `vectors` vectors of columns from `column` on."""
    for k in range(depth):
        for v in T.unroll(vectors):
            for i in T.unroll(count):
                for l in T.vectorized(width):
                    acc[(i * vectors + v) * width + l] = (
                        acc[(i * vectors + v) * width + l] + x[first + i, k] * weight[expert, k, column + v * width + l]
                    )


@T.inline
def _put(y, acc, first, count, column, vectors, width):
    for i, v in T.grid(count, vectors):
        for l in T.vectorized(width):
            y[first + i, column + v * width + l] = acc[(i * vectors + v) * width + l]


@T.inline
def _cleared(acc, count, width):
    for v in range(count):
        for l in T.vectorized(width):
            acc[v * width + l] = T.float32(0)


def build(spec: GroupedSpec, target: Target):
    """PrimFunc(x, w, expert: int32 [rows], y). The last block of columns overlaps the one before it, so that there is no scalar rest."""
    rows, depth, cols, experts, group = spec.rows, spec.depth, spec.cols, spec.experts, spec.group
    width = width_for(cols, target.lanes)
    vectors = min(_VECTORS, cols // width)
    blocks, groups = ceil_div(cols, vectors * width), rows // group

    @T.prim_func
    def grouped_matmul(
        X: T.Buffer((rows, depth), "float32"),
        W: T.Buffer((experts, depth, cols), "float32"),
        E: T.Buffer((rows,), "int32"),
        Y: T.Buffer((rows, cols), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(blocks * groups):
            acc = T.alloc_local((group * vectors * width,), "float32")
            column: T.let = T.min(job // groups * vectors * width, cols - vectors * width)
            first: T.let = job % groups * group
            if E[first] == E[first + group - 1] and E[first] >= 0 and E[first] < experts:
                _cleared(acc, group * vectors, width)
                _multiplied(acc, X, W, first, group, E[first], column, depth, vectors, width)
                _put(Y, acc, first, group, column, vectors, width)
            else:
                for i in range(group):
                    _cleared(acc, vectors, width)
                    if E[first + i] >= 0 and E[first + i] < experts:
                        _multiplied(acc, X, W, first + i, 1, E[first + i], column, depth, vectors, width)
                    _put(Y, acc, first + i, 1, column, vectors, width)

    return grouped_matmul
