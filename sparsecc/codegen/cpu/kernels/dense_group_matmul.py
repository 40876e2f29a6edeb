"""Dense matrix kernel for int8 and bfloat16: a group of inputs of every token in the lanes is multiplied at once (see `groups.dot`).

Measured on Zen 4 at BERT-base's shapes, tiles of 64 tokens, in G multiplications and additions per second on two cores: int8 900 to 920,
bfloat16 440 to 460, float32 215 to 225. By instructions the peaks are 940, 470 and 235. Tiles of 64 × 6 rows and of 32 × 12 are equally
fast, and so is a pass over all tokens for each block of rows.
"""

import math

import numpy as np

from sparsecc.codegen.cpu.kernels import dense_matmul
from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T


def space(spec: MatmulSpec, target: Target) -> list[Tiles]:
    """The register tiles of `dense_matmul`, whose sums are as wide. The depth is never cut: a narrow X is small."""
    return [knobs for knobs in dense_matmul.space(spec, target) if knobs.panel == spec.depth]


def prepare(
    matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Tiles, scales: np.ndarray | None, target: Target
) -> list[np.ndarray]:
    """matrix: int8 [rows, depth] with scales float32[rows], or bfloat16 values as float32 without.

    Returns W [row blocks, taps · groups, rows per block], what sums begin with, scales and bias (all [padded rows]), tap offsets.
    """
    blocks = ceil_div(spec.rows, knobs.rows)
    padded = np.zeros((blocks * knobs.rows, spec.depth), matrix.dtype)
    padded[: spec.rows] = matrix
    weights = groups.grouped(padded, len(spec.taps), spec.dtype).reshape(blocks, knobs.rows, -1)
    offsets = padded_bias(bias, spec.rows, len(padded))
    return [
        np.ascontiguousarray(weights.transpose(0, 2, 1)),
        groups.starts(padded, offsets, spec.dtype),
        padded_bias(scales, spec.rows, len(padded)),
        offsets,
        np.asarray(spec.taps, np.int32),
    ]


def build(spec: MatmulSpec, knobs: Tiles, target: Target):
    """PrimFunc(X, token scales and zero points [batch, channel_stride], W, starts, scales, bias, taps, residual, Y).

    `residual` has Y's shape, or is the bias again when the epilogue has none; for bfloat16 the bias stands for what tokens have, too.
    A row sums over several positions where there are taps, which then need the same scale and zero point.
    """
    lanes, mr, tile, parts, dtype = target.lanes, knobs.rows, knobs.tile, knobs.groups, spec.dtype
    vectors = tile // lanes
    blocks = ceil_div(spec.rows, mr)
    tiles = ceil_div(spec.positions, tile)
    last_start = spec.positions - tile
    n_taps, inner = len(spec.taps), spec.channel_groups
    rows, pitch, stride = spec.rows, spec.y_pitch, spec.channel_stride
    ragged = blocks * mr != rows
    x_shape, y_shape = spec.x_shape, spec.y_shape
    x_size, y_size = math.prod(x_shape), math.prod(y_shape)
    r_shape = y_shape if spec.epilogue.residual else (blocks * mr,)
    s_shape = (spec.batch, stride) if dtype == "int8" else (blocks * mr,)
    r_size, s_size = math.prod(r_shape), math.prod(s_shape)
    batch, epilogue, sums = spec.batch, spec.epilogue, groups.SUM[dtype]

    @T.prim_func
    def dense_group_matmul(
        x: T.Buffer(x_shape, "int32"),
        token_scales: T.Buffer(s_shape, "float32"),
        token_zeros: T.Buffer(s_shape, sums),
        W: T.Buffer((blocks, n_taps * inner, mr), "int32"),
        starts: T.Buffer((blocks * mr,), sums),
        scales: T.Buffer((blocks * mr,), "float32"),
        B: T.Buffer((blocks * mr,), "float32"),
        O: T.Buffer((n_taps,), "int32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "int32", data=x.data)
        S = T.decl_buffer((s_size,), "float32", data=token_scales.data)
        Z = T.decl_buffer((s_size,), sums, data=token_zeros.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(batch * tiles * parts):
            acc = T.alloc_local((mr * tile,), sums)
            part: T.let = job // (batch * tiles)
            first: T.let = blocks * part // parts
            item: T.let = job // tiles % batch
            start: T.let = T.min(job % tiles * tile, last_start)
            for ii in range(blocks * (part + 1) // parts - first):
                i: T.let = first + ii
                for r in T.unroll(mr):
                    for v in T.unroll(vectors):
                        acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.begin(
                            T.Broadcast(starts[i * mr + r], lanes), lambda: Z[T.ramp(item * stride + start + v * lanes, 1, lanes)], dtype
                        )
                for t in range(n_taps):
                    for c in range(inner):
                        for r in T.unroll(mr):
                            for v in T.unroll(vectors):
                                acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.dot(
                                    acc[T.ramp(r * tile + v * lanes, 1, lanes)],
                                    X[T.ramp((item * inner + c) * stride + O[t] + start + v * lanes, 1, lanes)],
                                    W[i, t * inner + c, r],
                                    dtype,
                                    target,
                                )
                for r in T.unroll(mr):
                    if (not ragged) or i * mr + r < rows:
                        for v in T.unroll(vectors):
                            for l in T.vectorized(lanes):
                                Y[(item * rows + i * mr + r) * pitch + start + v * lanes + l] = apply(
                                    epilogue,
                                    groups.result(
                                        acc[r * tile + v * lanes + l],
                                        dtype,
                                        lambda: scales[i * mr + r] * S[item * stride + start + v * lanes + l],
                                        B[i * mr + r],
                                    ),
                                    lambda: R[(item * rows + i * mr + r) * pitch + start + v * lanes + l],
                                )

    return groups.linked(dense_group_matmul, dtype, target)


KERNEL = Kernel(space, prepare, build, Tiles, bias=3, dtypes=("int8", "bfloat16"))
