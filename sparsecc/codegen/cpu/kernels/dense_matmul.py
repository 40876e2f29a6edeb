"""Dense matrix kernel with positions in the vector lanes: the twin that a sparse kernel has to beat.

Tiles.rows × tile accumulators stay in registers over a panel; W is stored [panel, row block, input, row] in the order it is read.
"""

import math

import numpy as np

from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.tiles import Tiles, groups_for, makespan, panel_of, widened
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T

_ENOUGH_SUMS = 8  # in flight, for two multiply-adds a cycle that take four cycles


def space(spec: MatmulSpec, target: Target) -> list[Tiles]:
    """Register tiles that fit the register file (one row of X and one broadcast beside them), best guess first."""
    lanes, guesses, tiles = target.lanes, {}, {}
    for vectors in range(1, 9):
        if vectors * lanes > max(spec.positions, lanes):
            break
        tile, most = vectors * lanes, min((target.registers - 1) // vectors - 1, 14, spec.rows)
        tiles[tile] = list(range(most, most // 3, -1))
        for rows in tiles[tile]:
            groups = groups_for(spec.batch * ceil_div(spec.positions, tile), target.threads, ceil_div(spec.rows, rows))
            for panel in (spec.depth, panel_of(spec, 384)):
                guesses[Tiles(tile, rows, panel, groups)] = _cost(spec, tile, rows, groups, target)
    best = sorted(guesses, key=lambda knobs: (guesses[knobs], -knobs.tile, -knobs.panel))
    return widened(best, spec, {tile: rows for tile, rows in tiles.items() if tile <= 4 * lanes})


def _cost(spec: MatmulSpec, tile: int, rows: int, groups: int, target: Target) -> float:
    """Of one input, in multiply-adds of vectors: those for rows and positions that overlap or do not exist, too, and a part of the loads.

    Measured on Zen 4, where every register tile from 8 vectors on runs at 98 % of the peak: what differs is what they compute in vain.
    """
    vectors = tile // target.lanes
    jobs = makespan(spec.batch * ceil_div(spec.positions, tile) * groups, target.threads)
    blocks = ceil_div(ceil_div(spec.rows, rows), groups)
    return jobs * blocks * (max(vectors * rows, _ENOUGH_SUMS) + (vectors + rows / 2) / 8)


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Tiles) -> list[np.ndarray]:
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


def build(spec: MatmulSpec, knobs: Tiles, target: Target):
    """PrimFunc(X, W, bias, taps, residual, Y); `residual` has Y's shape, or is the bias again when the epilogue has none."""
    lanes, mr, tile, groups = target.lanes, knobs.rows, knobs.tile, knobs.groups
    vectors = tile // lanes
    blocks = ceil_div(spec.rows, mr)
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
    scratch = ceil_div(blocks, groups) * mr * tile if panels > 1 else 1
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
            part: T.let = job // (batch * tiles)
            first: T.let = blocks * part // groups
            item: T.let = job // tiles % batch
            start: T.let = T.min(job % tiles * tile, last_start)
            for p in range(panels):
                for ii in range(blocks * (part + 1) // groups - first):
                    i: T.let = first + ii
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
                                        Y[(item * rows + i * mr + r) * pitch + start + v * lanes + l] = apply(
                                            epilogue,
                                            acc[r * tile + v * lanes + l],
                                            lambda: R[(item * rows + i * mr + r) * pitch + start + v * lanes + l],
                                        )
                    else:
                        for r in T.unroll(mr):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    partial[(ii * mr + r) * tile + v * lanes + l] = acc[r * tile + v * lanes + l]

    return dense_matmul


KERNEL = Kernel(space, prepare, build, Tiles, bias=1)
