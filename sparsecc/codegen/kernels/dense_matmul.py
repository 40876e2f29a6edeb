"""Dense matrix kernel with positions in the vector lanes: the twin that a sparse kernel has to beat.

Knobs.rows × tile accumulators stay in registers over a panel; W is stored [panel, row block, input, row] in the order it is read.
"""

import math

import numpy as np

from sparsecc.codegen.kernels.base import Knobs, MatmulSpec, ceil_div, groups_for, panel_of, tile_for, widened
from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import T


def space(spec: MatmulSpec, target: Target) -> list[Knobs]:
    """Register tiles that fill the register file (one row of X and one broadcast beside them), best guess first; then narrower ones."""
    lanes = target.lanes
    found, tiles = [], {}
    for vectors in (4, 3, 2, 1):
        if vectors * lanes > max(spec.positions, lanes):
            continue
        tile = tile_for(spec.positions, lanes, vectors * lanes)
        rows = min((target.registers - 1) // (tile // lanes) - 1, 14, spec.rows)
        rows = next((r for r in range(rows, max(rows - 3, 0), -1) if spec.rows % r == 0), rows)
        tiles[tile] = list(range(rows, rows // 3, -1))
        for most in (384, spec.depth):
            jobs = spec.batch * ceil_div(spec.positions, tile)
            found.append(Knobs(tile, rows, panel_of(spec, most), groups_for(jobs, target.threads, ceil_div(spec.rows, rows))))
    guesses = sorted(dict.fromkeys(found), key=lambda k: (ceil_div(spec.positions, k.tile) * k.tile, -k.tile, -k.panel))
    return widened(guesses, spec, tiles)


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Knobs) -> list[np.ndarray]:
    """matrix: [rows, depth]. Returns W [panels, row blocks, panel, rows per block], bias [padded rows], tap offsets."""
    blocks = ceil_div(spec.rows, knobs.rows)
    padded = np.zeros((blocks * knobs.rows, spec.depth), np.float32)
    padded[: spec.rows] = matrix
    shaped = padded.reshape(blocks, knobs.rows, spec.depth // knobs.panel, knobs.panel)
    return [
        np.ascontiguousarray(shaped.transpose(2, 0, 3, 1)),
        padded_bias(bias, spec.rows, blocks * knobs.rows),
        np.asarray(spec.taps, np.int32),
    ]


def padded_bias(bias: np.ndarray | None, rows: int, padded_rows: int) -> np.ndarray:
    padded = np.zeros(padded_rows, np.float32)
    if bias is not None:
        padded[:rows] = bias
    return padded


def build(spec: MatmulSpec, knobs: Knobs, target: Target):
    """PrimFunc(X, W, bias, taps, residual, Y); `residual` has Y's shape, or is the bias again when the epilogue has none."""
    lanes, mr, tile, groups = target.lanes, knobs.rows, knobs.tile, knobs.groups
    vectors = tile // lanes
    blocks = ceil_div(spec.rows, mr)
    per_group = ceil_div(blocks, groups)
    tiles = ceil_div(spec.positions, tile)
    last_start = spec.positions - tile
    n_taps, channels = len(spec.taps), spec.channels
    panels = spec.depth // knobs.panel
    inner = min(knobs.panel, channels)  # channels of one tap in a panel
    taps_per_panel = knobs.panel // inner
    rows, pitch, stride = spec.rows, spec.y_pitch, spec.channel_stride
    ragged = blocks * mr != rows
    x_shape, y_shape = spec.x_shape, spec.y_shape
    x_size, y_size = math.prod(x_shape), math.prod(y_shape)
    r_shape = y_shape if spec.epilogue.residual else (blocks * mr,)
    r_size = math.prod(r_shape)
    scratch = per_group * mr * tile if panels > 1 else 1
    batch, x_stride, epilogue = spec.batch, x_size // spec.batch, spec.epilogue

    @T.prim_func
    def dense_matmul(
        x: T.Buffer(x_shape, "float32"),
        W: T.Buffer((panels, blocks, knobs.panel, mr), "float32"),
        B: T.Buffer((blocks * mr,), "float32"),
        O: T.Buffer((n_taps,), "int32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(batch * tiles * groups):
            acc = T.alloc_local((mr * tile,), "float32")
            partial = T.alloc_buffer((scratch,), "float32")
            item: T.let = job // (tiles * groups)
            start: T.let = T.min(job // groups % tiles * tile, last_start)
            for p in range(panels):
                for ii in range(T.min(per_group, blocks - job % groups * per_group)):
                    i: T.let = job % groups * per_group + ii
                    if p == 0:
                        for r in T.unroll(mr):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    acc[r * tile + v * lanes + l] = B[i * mr + r]
                    else:
                        for r in T.unroll(mr):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    acc[r * tile + v * lanes + l] = partial[(ii * mr + r) * tile + v * lanes + l]
                    for t in range(taps_per_panel):
                        for c in range(inner):
                            for r in T.unroll(mr):
                                for v in T.unroll(vectors):
                                    for l in T.vectorized(lanes):
                                        acc[r * tile + v * lanes + l] = (
                                            acc[r * tile + v * lanes + l]
                                            + W[p, i, t * inner + c, r]
                                            * X[
                                                item * x_stride
                                                + ((p * knobs.panel + t * inner) % channels + c) * stride
                                                + O[(p * knobs.panel + t * inner) // channels]
                                                + start
                                                + v * lanes
                                                + l
                                            ]
                                        )
                    if p == panels - 1:
                        for r in T.unroll(mr):
                            if (not ragged) or i * mr + r < rows:
                                for v in T.unroll(vectors):
                                    for l in T.vectorized(lanes):
                                        Y[(item * rows + i * mr + r) * pitch + start + v * lanes + l] = epilogue.apply(
                                            acc[r * tile + v * lanes + l],
                                            lambda: R[(item * rows + i * mr + r) * pitch + start + v * lanes + l],
                                        )
                    else:
                        for r in T.unroll(mr):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    partial[(ii * mr + r) * tile + v * lanes + l] = acc[r * tile + v * lanes + l]

    return dense_matmul
