"""Sparse matrix kernel for a few tokens, with outputs in the vector lanes: blocks of `rows` outputs × 1 input (see `matvec`).

For formats whose rows share their inputs by the width of a vector (16x1, 32x1, ..): a block is one or more registers of weights, and its
input the same for all of them.
"""

import math
from dataclasses import replace

import numpy as np

from sparsecc.codegen.cpu.kernels import row_block_spmm
from sparsecc.codegen.cpu.pieces import matvec
from sparsecc.codegen.cpu.pieces.matvec import Passes
from sparsecc.codegen.cpu.pieces.micro import fill
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T
from sparsecc.codegen.zeros import ZeroProfile, common_rows


def space(spec: MatmulSpec, block_rows: int, target: Target) -> list[Passes]:
    """block_rows: rows that share their nonzero columns; nothing is possible where that is no multiple of the vector width."""
    return matvec.space(spec, target, block_rows)


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Passes) -> list[np.ndarray]:
    """matrix: [rows, depth] with its zeros. Returns values [blocks, rows of a block], index [blocks], first [1, row blocks + 1],
    bounds [groups + 1] and bias, all as `row_block_spmm` has them."""
    whole = matvec.in_blocks(matrix, knobs.rows)
    offsets = None if bias is None else matvec.in_blocks(bias, knobs.rows)
    tiles = Tiles(knobs.tokens, knobs.rows, spec.depth, knobs.parts)
    return row_block_spmm.prepare(whole, offsets, replace(spec, rows=len(whole)), tiles)


def build(spec: MatmulSpec, knobs: Passes, target: Target):
    """PrimFunc(X, values, index, first, bounds, bias, residual, Y) for any number of stored blocks, so that layers share it.

    `residual` has Y's shape, or is the bias again when the epilogue has none.
    """
    lanes, height, tokens, parts = target.lanes, knobs.rows, knobs.tokens, knobs.parts
    rows, depth = spec.rows, spec.depth
    row_blocks, passes = ceil_div(rows, height), ceil_div(spec.batch, tokens)
    last_block, last_pass, epilogue = max(rows - height, 0), spec.batch - tokens, spec.epilogue
    sums = tokens * height
    chains = ceil_div(matvec.CHAINS * lanes, sums)
    index_type = "uint16" if row_block_spmm.index_is_affine(spec) else "int32"
    r_shape = spec.y_shape if epilogue.residual else (row_blocks * height,)
    x_size, y_size, r_size = math.prod(spec.x_shape), math.prod(spec.y_shape), math.prod(r_shape)

    @T.prim_func
    def row_block_matvec(
        x: T.Buffer(spec.x_shape, "float32"),
        values: T.handle,
        index: T.handle,
        F: T.Buffer((1, row_blocks + 1), "int32"),
        G: T.Buffer((parts + 1,), "int32"),
        B: T.Buffer((row_blocks * height,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        blocks = T.int32()
        V = T.match_buffer(values, (blocks, height), "float32")
        J = T.match_buffer(index, (blocks,), index_type)
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)

        @T.inline
        def multiply(acc, b, chain, first):
            for t in T.unroll(tokens):
                for v in T.unroll(height // lanes):
                    for l in T.vectorized(lanes):
                        acc[chain * sums + t * height + v * lanes + l] = (
                            acc[chain * sums + t * height + v * lanes + l]
                            + X[(first + t) * depth + T.Cast("int32", J[b])] * V[b, v * lanes + l]
                        )

        for job in T.parallel(passes * parts):
            acc = T.alloc_local((chains * sums,), "float32")
            first: T.let = T.min(job // parts * tokens, last_pass)
            # Loops begin at zero: TVM 0.27 addresses wrongly in a serial loop whose data-dependent start is not zero.
            for ii in range(G[job % parts + 1] - G[job % parts]):
                i: T.let = G[job % parts] + ii
                row: T.let = T.min(i * height, last_block)
                count: T.let = F[0, i + 1] - F[0, i]
                fill(acc, tokens, height, lanes, lambda t, r: B[i * height + r])
                for chain in T.unroll(chains - 1):
                    for s in T.unroll(sums // lanes):
                        for l in T.vectorized(lanes):
                            acc[(chain + 1) * sums + s * lanes + l] = T.float32(0)
                for bb in range(count // chains):
                    for chain in T.unroll(chains):
                        multiply(acc, F[0, i] + bb * chains + chain, chain, first)
                for bb in range(count % chains):
                    multiply(acc, F[0, i] + count // chains * chains + bb, 0, first)
                for chain in T.unroll(chains - 1):
                    for s in T.unroll(sums // lanes):
                        for l in T.vectorized(lanes):
                            acc[s * lanes + l] = acc[s * lanes + l] + acc[(chain + 1) * sums + s * lanes + l]
                matvec.finish(Y, R, acc, first, row, tokens, height, lanes, rows, epilogue)

    return row_block_matvec


def _blocks_of_vectors(matrix: np.ndarray, _: str, target: Target) -> ZeroProfile:
    """The highest blocks of whole vectors that the zeros form, else blocks of one vector, of which any zeros may leave some out."""
    heights = [vectors * target.lanes for vectors in (4, 2, 1)]
    return ZeroProfile.of_blocks(matrix != 0, max(common_rows(matrix, heights), target.lanes))


KERNEL = Kernel(
    space,
    prepare,
    build,
    Passes,
    bias=4,
    few=True,
    structure=_blocks_of_vectors,
    zeros=lambda zeros: (zeros.block_rows,),
    index_bytes=lambda zeros, _: zeros.index_bytes_of_blocks,
)
