"""Loops over a register tile of rows × tile values, shared by kernels. Accumulators lie row by row in a local buffer.

Arguments called `value`, `weight` or `x` are functions from indices to expressions.
"""

from sparsecc.codegen.tvm_api import T


@T.inline
def fill(acc, rows, tile, lanes, value):
    """acc[r, l] = value(r, l)"""
    for r in T.unroll(rows):
        for v in T.unroll(tile // lanes):
            for l in T.vectorized(lanes):
                acc[r * tile + v * lanes + l] = value(r, v * lanes + l)


@T.inline
def multiply_add(acc, depth, rows, tile, lanes, weight, x):
    """acc[r, l] += Σ_c weight(c, r) · x(c, l)"""
    for c in range(depth):
        for r in T.unroll(rows):
            for v in T.unroll(tile // lanes):
                for l in T.vectorized(lanes):
                    acc[r * tile + v * lanes + l] = acc[r * tile + v * lanes + l] + weight(c, r) * x(c, v * lanes + l)
