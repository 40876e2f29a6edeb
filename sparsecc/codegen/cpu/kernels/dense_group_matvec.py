"""Dense matrix kernel for a few int8 or bfloat16 tokens, with outputs in the vector lanes: each lane multiplies a group of its weights at
once with the same group of inputs (see `matvec` and `groups`)."""

import math

import numpy as np

from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.pieces import groups, matvec
from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.matvec import Passes
from sparsecc.codegen.cpu.pieces.micro import fill
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T


def space(spec: MatmulSpec, target: Target) -> list[Passes]:
    return matvec.space(spec, target)


def prepare(
    matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Passes, scales: np.ndarray | None, target: Target
) -> list[np.ndarray]:
    """matrix, scales: as for `dense_group_matmul`.

    Returns weights int32 [blocks, groups, rows of a block], what sums begin with, scales and bias (all [blocks · rows of a block]).
    """
    offsets = padded_bias(bias, spec.rows, spec.rows)
    per_row = (groups.starts(matrix, offsets, spec.dtype), padded_bias(scales, spec.rows, spec.rows), offsets)
    weights = matvec.in_lanes(groups.grouped(matrix, 1, spec.dtype), knobs.rows)
    return [weights, *(matvec.in_blocks(array, knobs.rows) for array in per_row)]


def build(spec: MatmulSpec, knobs: Passes, target: Target):
    """PrimFunc(X, token scales and zero points [batch, 1], weights, starts, scales, bias, residual, Y); X: int32 [batch, groups, 1].

    `residual` has Y's shape, or is the bias again when the epilogue has none; for bfloat16 the bias stands for what tokens have, too.
    """
    lanes, height, tokens, parts, dtype = target.lanes, knobs.rows, knobs.tokens, knobs.parts, spec.dtype
    rows, inner = spec.rows, spec.channel_groups
    blocks, passes = ceil_div(rows, height), ceil_div(spec.batch, tokens)
    per_part, last_block, last_pass = ceil_div(blocks, parts), max(rows - height, 0), spec.batch - tokens
    epilogue, sums = spec.epilogue, groups.SUM[dtype]
    r_shape = spec.y_shape if epilogue.residual else (blocks * height,)
    s_shape = (spec.batch, 1) if dtype == "int8" else (blocks * height,)
    x_size, y_size, r_size, s_size = (math.prod(shape) for shape in (spec.x_shape, spec.y_shape, r_shape, s_shape))

    @T.prim_func
    def dense_group_matvec(
        x: T.Buffer(spec.x_shape, "int32"),
        token_scales: T.Buffer(s_shape, "float32"),
        token_zeros: T.Buffer(s_shape, sums),
        W: T.Buffer((blocks, inner, height), "int32"),
        starts: T.Buffer((blocks * height,), sums),
        scales: T.Buffer((blocks * height,), "float32"),
        B: T.Buffer((blocks * height,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "int32", data=x.data)
        S = T.decl_buffer((s_size,), "float32", data=token_scales.data)
        Z = T.decl_buffer((s_size,), sums, data=token_zeros.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(passes * parts):
            acc = T.alloc_local((tokens * height,), sums)
            first: T.let = T.min(job // parts * tokens, last_pass)
            for ii in range(T.min(per_part, blocks - job % parts * per_part)):
                i: T.let = job % parts * per_part + ii
                row: T.let = T.min(i * height, last_block)
                fill(acc, tokens, height, lanes, lambda t, r: groups.begin(starts[i * height + r], lambda: Z[first + t], dtype))
                for g in range(inner):
                    for t in T.unroll(tokens):
                        for v in T.unroll(height // lanes):
                            acc[T.ramp(t * height + v * lanes, 1, lanes)] = groups.dot_of_lanes(
                                acc[T.ramp(t * height + v * lanes, 1, lanes)],
                                T.Broadcast(X[(first + t) * inner + g], lanes),
                                W[i, g, T.ramp(v * lanes, 1, lanes)],
                                dtype,
                                target,
                            )
                matvec.store(
                    Y,
                    tokens,
                    height,
                    lanes,
                    rows,
                    lambda t: (first + t) * rows + row,
                    lambda t, r: apply(
                        epilogue,
                        groups.result(
                            acc[t * height + r],
                            dtype,
                            lambda: scales[i * height + r] * S[first + t],
                            B[i * height + r],
                        ),
                        lambda: R[(first + t) * rows + row + r],
                    ),
                )

    return groups.linked(dense_group_matvec, dtype, target)


KERNEL = Kernel(space, prepare, build, Passes, bias=3, dtypes=("int8", "bfloat16"), few=True)
