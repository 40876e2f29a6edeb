"""Sparse matrix kernel for every format: blocks of `rows` outputs × 1 input, positions in the vector lanes.

csr and N:M are blocks of one row; r×c blocks are c blocks of r×1, and tall blocks are cut to what the registers hold.
Every block loads its piece of X once and uses it for all of its rows (r=1 is bound by loads, r=4 by multiply-adds).
"""

import math

import numpy as np

from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.tiles import Tiles, groups_for, makespan, panels_of, widened, x_of_panel
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T
from sparsecc.codegen.zeros import ZeroProfile


def space(spec: MatmulSpec, block_rows: int, density: float, target: Target) -> list[Tiles]:
    """block_rows: rows that share their nonzero columns (1 for csr and N:M).  density: share of the blocks that are stored.

    Best guess first, then what else a search may try.
    """
    lanes, guesses, tiles = target.lanes, {}, {}
    rows = max(r for r in (4, 2, 1) if block_rows % r == 0)
    for vectors in range(1, 15):
        tile = vectors * lanes
        if tile > max(spec.positions, lanes) or (vectors > 1 and (rows + 1) * vectors >= target.registers):
            break
        tiles[tile] = [r for r in (4, 2, 1) if block_rows % r == 0 and (r + 1) * vectors < target.registers]
        for panel in panels_of(spec):
            knobs = Tiles(tile, rows, panel, _groups(spec, tile, rows, panel, target))
            guesses[knobs] = _cost(spec, knobs, density, target)
    best = sorted(guesses, key=guesses.__getitem__)
    return widened(best, spec, {tile: rows for tile, rows in tiles.items() if tile // lanes in (1, 2, 3, 4, 6, 8)})


def _groups(spec: MatmulSpec, tile: int, rows: int, panel: int, target: Target) -> int:
    """So many that threads have equal work and, where sums wait for the next panel, that those of a part stay in the L2 beside the stream
    of weights: 1024 rows or more in one part took 8 to 12 % longer, measured on Zen 5."""
    blocks = ceil_div(spec.rows, rows)
    groups = groups_for(spec.batch * ceil_div(spec.positions, tile), target.threads, blocks)
    times = ceil_div(4 * spec.rows * tile, target.l2_bytes // 8) if panel < spec.depth else 1
    return min(groups * ceil_div(times, groups), blocks)


def _cost(spec: MatmulSpec, knobs: Tiles, density: float, target: Target) -> float:
    """Of the busiest thread, in multiply-adds of a vector, fitted to 350 candidates of nine layers on Zen 5 (off by 7 %): a stored block
    takes 2.4 beside its multiply-adds, a vector of X that the L1 does not hold 0.9 more, one of sums 8 for each panel that it waits for.
    """
    vectors = knobs.tile // target.lanes
    jobs = makespan(spec.batch * ceil_div(spec.positions, knobs.tile) * knobs.groups, target.threads)
    missed = max(1 - 0.8 * target.l1_bytes / (4 * x_of_panel(spec, knobs.tile, knobs.panel)), 0.0)
    block = knobs.rows * vectors + 2.4 + 0.9 * missed * vectors
    return jobs / knobs.groups * (spec.depth * density * block + knobs.rows * vectors * (8 * (spec.depth // knobs.panel - 1) + 2))


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Tiles) -> list[np.ndarray]:
    """matrix: [rows, depth] with its zeros. Returns, with blocks ordered by (panel, row block, input):

    values [blocks, rows per block], index [blocks] (the input within its panel; for several taps the offset in X),
    first [panels, row blocks + 1], bounds [groups + 1] (row blocks of each group, balanced by blocks), bias.
    """
    height, panel = knobs.rows, knobs.panel
    row_blocks, panels = ceil_div(spec.rows, height), spec.depth // panel
    padded = np.zeros((row_blocks * height, spec.depth), np.float32)
    padded[: spec.rows] = matrix
    shaped = padded.reshape(row_blocks, height, panels, panel).transpose(2, 0, 3, 1)  # panel, row block, input, row
    kept = shaped.any(axis=3)
    p, _, j = np.nonzero(kept)
    values = np.ascontiguousarray(shaped[kept])
    counts = kept.sum(axis=2)
    if len(values) == 0:  # a buffer may not be empty
        values, p, j = np.zeros((1, height), np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64)
    return [
        values,
        _index(p * panel + j, j, spec),
        first_blocks(counts),
        balanced(counts.sum(axis=0), knobs.groups),
        padded_bias(bias, spec.rows, row_blocks * height),
    ]


def _index(inputs: np.ndarray, in_panel: np.ndarray, spec: MatmulSpec) -> np.ndarray:
    """uint16 within the panel where X is affine in the input, otherwise int32 offsets in elements."""
    if index_is_affine(spec):
        return in_panel.astype(np.uint16)
    tap, channel = np.divmod(inputs, spec.channels)
    return (np.asarray(spec.taps)[tap] + channel * spec.channel_stride).astype(np.int32)


def index_is_affine(spec: MatmulSpec) -> bool:
    return spec.taps == (0,) and spec.channel_groups <= 1 << 16


def first_blocks(counts: np.ndarray) -> np.ndarray:
    """counts: stored blocks [panels, row blocks]. Returns int32 [panels, row blocks + 1]: where those of each begin and end."""
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    first = np.zeros((len(counts), counts.shape[1] + 1), np.int32)
    first[:, 1:] = ends
    first[1:, 0] = ends[:-1, -1]
    return first


def balanced(blocks_per_row: np.ndarray, groups: int) -> np.ndarray:
    """Row blocks at which each group begins, so that groups hold about the same number of blocks."""
    done = np.cumsum(blocks_per_row + 1)  # an empty row costs its store
    targets = done[-1] * np.arange(1, groups) / groups
    return np.concatenate([[0], np.searchsorted(done, targets), [len(blocks_per_row)]]).astype(np.int32)


def build(spec: MatmulSpec, knobs: Tiles, target: Target):
    """PrimFunc(X, values, index, first, bounds, bias, residual, Y) for any number of stored blocks, so that layers share it.

    `residual` has Y's shape, or is the bias again when the epilogue has none.
    """
    lanes, height, tile, groups, panel = target.lanes, knobs.rows, knobs.tile, knobs.groups, knobs.panel
    vectors = tile // lanes
    row_blocks, panels = ceil_div(spec.rows, height), spec.depth // panel
    tiles = ceil_div(spec.positions, tile)
    last_start = spec.positions - tile
    rows, pitch = spec.rows, spec.y_pitch
    ragged = row_blocks * height != rows
    affine = index_is_affine(spec)
    index_type = "uint16" if affine else "int32"
    scale, panel_stride = (spec.channel_stride, panel * spec.channel_stride) if affine else (1, 0)
    x_shape, y_shape = spec.x_shape, spec.y_shape
    x_size, y_size = math.prod(x_shape), math.prod(y_shape)
    r_shape = y_shape if spec.epilogue.residual else (row_blocks * height,)
    r_size = math.prod(r_shape)
    scratch = row_blocks * height * tile if panels > 1 else 1
    batch, x_stride, epilogue = spec.batch, x_size // spec.batch, spec.epilogue

    @T.prim_func
    def row_block_spmm(
        x: T.Buffer(x_shape, "float32"),
        values: T.handle,
        index: T.handle,
        F: T.Buffer((panels, row_blocks + 1), "int32"),
        G: T.Buffer((groups + 1,), "int32"),
        B: T.Buffer((row_blocks * height,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        blocks = T.int32()
        V = T.match_buffer(values, (blocks, height), "float32")
        J = T.match_buffer(index, (blocks,), index_type)
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(batch * tiles * groups):
            acc = T.alloc_local((height * tile,), "float32")
            partial = T.alloc_buffer((scratch,), "float32")
            part: T.let = job // (batch * tiles)
            item: T.let = job // tiles % batch
            start: T.let = T.min(job % tiles * tile, last_start)
            for p in range(panels):
                # Loops begin at zero: TVM 0.27 addresses wrongly in a serial loop whose data-dependent start is not zero.
                for ii in range(G[part + 1] - G[part]):
                    i: T.let = G[part] + ii
                    if p == 0:
                        for r in T.unroll(height):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    acc[r * tile + v * lanes + l] = B[i * height + r]
                    else:
                        for r in T.unroll(height):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    acc[r * tile + v * lanes + l] = partial[(i * height + r) * tile + v * lanes + l]
                    for bb in range(F[p, i + 1] - F[p, i]):
                        b: T.let = F[p, i] + bb
                        at: T.let = item * x_stride + p * panel_stride + T.Cast("int32", J[b]) * scale + start
                        for v in T.unroll(vectors):
                            for r in T.unroll(height):
                                for l in T.vectorized(lanes):
                                    acc[r * tile + v * lanes + l] = acc[r * tile + v * lanes + l] + V[b, r] * X[at + v * lanes + l]
                    if p == panels - 1:
                        for r in T.unroll(height):
                            if (not ragged) or i * height + r < rows:
                                for v in T.unroll(vectors):
                                    for l in T.vectorized(lanes):
                                        Y[(item * rows + i * height + r) * pitch + start + v * lanes + l] = apply(
                                            epilogue,
                                            acc[r * tile + v * lanes + l],
                                            lambda: R[(item * rows + i * height + r) * pitch + start + v * lanes + l],
                                        )
                    else:
                        for r in T.unroll(height):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(lanes):
                                    partial[(i * height + r) * tile + v * lanes + l] = acc[r * tile + v * lanes + l]

    return row_block_spmm


KERNEL = Kernel(
    space,
    prepare,
    build,
    Tiles,
    bias=4,
    structure=lambda matrix, *_: ZeroProfile.of(matrix),
    zeros=lambda zeros: (zeros.block_rows, zeros.density),
    index_bytes=lambda zeros, _: zeros.index_bytes_of_blocks,
)
