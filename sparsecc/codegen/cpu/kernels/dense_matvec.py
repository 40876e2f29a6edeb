"""Dense matrix kernel for tokens as they are, with outputs in the vector lanes: few, where a sparse one has to beat it (see `matvec`), or
many that no neighbour has in tiles."""

import math

import numpy as np

from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.pieces import matvec
from sparsecc.codegen.cpu.pieces.matvec import Passes
from sparsecc.codegen.cpu.pieces.micro import fill, multiply_add
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T


def space(spec: MatmulSpec, target: Target) -> list[Passes]:
    return matvec.space(spec, target) if spec.batch <= matvec.MOST_TOKENS else _of_many(spec, target)


def _of_many(spec: MatmulSpec, target: Target) -> list[Passes]:
    """Best guess first: as many sums as registers hold beside a row of weights and one input; its weights stay in the L1."""
    found = []
    for vectors in (2, 3, 1):
        height = vectors * target.lanes
        tokens = min((target.registers - 2) // vectors - 1, spec.batch)
        if height <= max(spec.rows, target.lanes):
            found.append(Passes(tokens, height, ceil_div(spec.rows, height)))
    return found


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Passes) -> list[np.ndarray]:
    """matrix: [rows, depth]. Returns W [blocks, depth, rows of a block] and bias [blocks · rows of a block]."""
    weights = matvec.in_lanes(matrix.astype(np.float32, copy=False), knobs.rows)
    return [weights, matvec.in_blocks(padded_bias(bias, spec.rows, spec.rows), knobs.rows)]


def build(spec: MatmulSpec, knobs: Passes, target: Target):
    """PrimFunc(X, W, bias, residual, Y); `residual` has Y's shape, or is the bias again when the epilogue has none."""
    lanes, height, tokens, parts = target.lanes, knobs.rows, knobs.tokens, knobs.parts
    rows, depth = spec.rows, spec.depth
    blocks = ceil_div(rows, height)
    per_part, last_block, last_pass = ceil_div(blocks, parts), max(rows - height, 0), spec.batch - tokens
    passes, epilogue = ceil_div(spec.batch, tokens), spec.epilogue
    r_shape = spec.y_shape if epilogue.residual else (blocks * height,)
    x_size, y_size, r_size = math.prod(spec.x_shape), math.prod(spec.y_shape), math.prod(r_shape)

    @T.prim_func
    def dense_matvec(
        x: T.Buffer(spec.x_shape, "float32"),
        W: T.Buffer((blocks, depth, height), "float32"),
        B: T.Buffer((blocks * height,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(passes * parts):
            acc = T.alloc_local((tokens * height,), "float32")
            first: T.let = T.min(job % passes * tokens, last_pass)
            for ii in range(T.max(T.min(per_part, blocks - job // passes * per_part), 0)):
                i: T.let = job // passes * per_part + ii
                row: T.let = T.min(i * height, last_block)
                fill(acc, tokens, height, lanes, lambda t, r: B[i * height + r])
                multiply_add(acc, depth, tokens, height, lanes, lambda c, t: X[(first + t) * depth + c], lambda c, r: W[i, c, r])
                matvec.finish(Y, R, acc, first, row, tokens, height, lanes, rows, epilogue)

    return dense_matvec


KERNEL = Kernel(space, prepare, build, Passes, bias=1, few=True)
