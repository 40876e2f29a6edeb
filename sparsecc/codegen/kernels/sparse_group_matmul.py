"""Sparse matrix kernel for int8 and bfloat16: blocks of 1 output × one group of inputs (1x4 in int8, 1x2 in bfloat16).

Whatever the format, a group that holds any weight is stored whole. Every multiply-add loads X, so that a panel of X has to stay near the
L1. Measured on Zen 4, int8, 1x4 blocks at 80 % zeros: 580 to 630 G operations per second on two cores, 64 to 69 % of the dense peak.
bfloat16, 1x2 blocks at 80 % zeros: 290 to 300, 64 to 66 %. vdpbf16ps takes 6 cycles, which four vectors of sums fill to two thirds.
"""

import math

import numpy as np

from sparsecc.codegen.kernels import groups
from sparsecc.codegen.kernels.base import Knobs, MatmulSpec, ceil_div, groups_for, panel_of, tile_for, widened
from sparsecc.codegen.kernels.dense_matmul import padded_bias
from sparsecc.codegen.kernels.row_block_spmm import balanced, first_blocks, index_is_affine
from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import T


def space(spec: MatmulSpec, target: Target) -> list[Knobs]:
    """Best guess first: a panel of 1.5 times the L1, as for one row of float32."""
    lanes, size = target.lanes, groups.SIZE[spec.dtype]
    found, tiles = [], {}
    for vectors in (8, 6, 4, 3, 2, 1):
        if vectors * lanes > max(spec.positions, lanes):
            continue
        tile = tile_for(spec.positions, lanes, vectors * lanes)
        tiles[tile] = [1]
        if vectors in (4, 2, 1):
            panel = panel_of(spec, max(3 * target.l1_bytes // 2 * size // (4 * tile), 1))
            jobs = spec.batch * ceil_div(spec.positions, tile)
            found.append(Knobs(tile, 1, panel, groups_for(jobs, target.threads, spec.rows)))
    guesses = sorted(dict.fromkeys(found), key=lambda k: (ceil_div(spec.positions, k.tile) * k.tile, -k.tile))
    whole = [knobs for knobs in widened(guesses, spec, tiles) if _whole_groups(spec, knobs.panel)]
    return whole or [Knobs(k.tile, 1, spec.depth, k.groups) for k in guesses]


def _whole_groups(spec: MatmulSpec, panel: int) -> bool:
    """Whether panels end where groups do."""
    return panel == spec.depth or panel % spec.channels == 0 or panel % groups.SIZE[spec.dtype] == 0


def prepare(
    matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Knobs, scales: np.ndarray | None, target: Target
) -> list[np.ndarray]:
    """matrix, scales: as for `dense_group_matmul`. Returns, with blocks ordered by (panel, row, group of inputs):

    values int32 [blocks], index [blocks] (the group within its panel; for several taps the offset in X), first [panels, rows + 1],
    bounds [parts + 1] (rows of each part, balanced by blocks), what sums begin with, scales and bias (all [rows]).
    """
    weights = groups.grouped(matrix, len(spec.taps), spec.dtype)
    panels = _panels(spec, knobs)
    shaped = weights.reshape(spec.rows, panels, -1).transpose(1, 0, 2)  # panel, row, group
    kept = shaped != 0
    p, _, j = np.nonzero(kept)
    values = shaped[kept]
    counts = kept.sum(axis=2)
    if len(values) == 0:  # a buffer may not be empty
        values, p, j = np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64)
    offsets = padded_bias(bias, spec.rows, spec.rows)
    return [
        np.ascontiguousarray(values),
        _index(p * shaped.shape[2] + j, j, spec),
        first_blocks(counts),
        balanced(counts.sum(axis=0), knobs.groups),
        groups.starts(matrix, offsets, spec.dtype, target),
        padded_bias(scales, spec.rows, spec.rows),
        offsets,
    ]


def _panels(spec: MatmulSpec, knobs: Knobs) -> int:
    return spec.depth // knobs.panel


def _index(inputs: np.ndarray, in_panel: np.ndarray, spec: MatmulSpec) -> np.ndarray:
    """uint16 within the panel where X is affine in the group, otherwise int32 offsets in lanes."""
    if index_is_affine(spec):
        return in_panel.astype(np.uint16)
    tap, group = np.divmod(inputs, spec.channel_groups)
    return (np.asarray(spec.taps)[tap] + group * spec.channel_stride).astype(np.int32)


def build(spec: MatmulSpec, knobs: Knobs, target: Target):
    """PrimFunc(X, token scales [batch, channel_stride], values, index, first, bounds, starts, scales, bias, residual, Y) for any number of
    stored blocks, so that layers share it. `residual` and token scales: as for `dense_group_matmul`."""
    lanes, tile, parts, dtype = target.lanes, knobs.tile, knobs.groups, spec.dtype
    vectors, panels = tile // lanes, _panels(spec, knobs)
    tiles = ceil_div(spec.positions, tile)
    last_start = spec.positions - tile
    rows, pitch, stride = spec.rows, spec.y_pitch, spec.channel_stride
    affine = index_is_affine(spec)
    index_type = "uint16" if affine else "int32"
    in_panel = len(spec.taps) * spec.channel_groups // panels
    scale, panel_stride = (stride, in_panel * stride) if affine else (1, 0)
    x_shape, y_shape = spec.x_shape, spec.y_shape
    x_size, y_size = math.prod(x_shape), math.prod(y_shape)
    r_shape = y_shape if spec.epilogue.residual else (rows,)
    s_shape = (spec.batch, stride) if dtype == "int8" else (rows,)
    r_size, s_size = math.prod(r_shape), math.prod(s_shape)
    scratch = rows * tile if panels > 1 else 1
    batch, x_stride, epilogue, sums = spec.batch, x_size // spec.batch, spec.epilogue, groups.SUM[dtype]

    @T.prim_func
    def sparse_group_matmul(
        x: T.Buffer(x_shape, "int32"),
        token_scales: T.Buffer(s_shape, "float32"),
        values: T.handle,
        index: T.handle,
        F: T.Buffer((panels, rows + 1), "int32"),
        G: T.Buffer((parts + 1,), "int32"),
        starts: T.Buffer((rows,), sums),
        scales: T.Buffer((rows,), "float32"),
        B: T.Buffer((rows,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        blocks = T.int32()
        V = T.match_buffer(values, (blocks,), "int32")
        J = T.match_buffer(index, (blocks,), index_type)
        X = T.decl_buffer((x_size,), "int32", data=x.data)
        S = T.decl_buffer((s_size,), "float32", data=token_scales.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(batch * tiles * parts):
            acc = T.alloc_local((tile,), sums)
            partial = T.alloc_buffer((scratch,), sums)
            item: T.let = job // (tiles * parts)
            start: T.let = T.min(job // parts % tiles * tile, last_start)
            for p in range(panels):
                # Loops begin at zero: TVM 0.27 addresses wrongly in a serial loop whose data-dependent start is not zero.
                for ii in range(G[job % parts + 1] - G[job % parts]):
                    i: T.let = G[job % parts] + ii
                    for v in T.unroll(vectors):
                        if p == 0:
                            acc[T.ramp(v * lanes, 1, lanes)] = T.Broadcast(starts[i], lanes)
                        else:
                            acc[T.ramp(v * lanes, 1, lanes)] = partial[T.ramp(i * tile + v * lanes, 1, lanes)]
                    for bb in range(F[p, i + 1] - F[p, i]):
                        b: T.let = F[p, i] + bb
                        at: T.let = item * x_stride + p * panel_stride + T.Cast("int32", J[b]) * scale + start
                        for v in T.unroll(vectors):
                            acc[T.ramp(v * lanes, 1, lanes)] = groups.dot(
                                acc[T.ramp(v * lanes, 1, lanes)], X[T.ramp(at + v * lanes, 1, lanes)], V[b], dtype, target
                            )
                    for v in T.unroll(vectors):
                        if p == panels - 1:
                            for l in T.vectorized(lanes):
                                Y[(item * rows + i) * pitch + start + v * lanes + l] = epilogue.apply(
                                    groups.result(
                                        acc[v * lanes + l], dtype, lambda: scales[i] * S[item * stride + start + v * lanes + l], B[i]
                                    ),
                                    lambda: R[(item * rows + i) * pitch + start + v * lanes + l],
                                )
                        else:
                            partial[T.ramp(i * tile + v * lanes, 1, lanes)] = acc[T.ramp(v * lanes, 1, lanes)]

    return groups.linked(sparse_group_matmul, dtype, target)
