"""Sparse matrix kernel for int8 and bfloat16: blocks of 1 output × one group of inputs (1x4 in int8, 1x2 in bfloat16).

Whatever the format, a group of a row that holds any weight is stored whole. A load of X for each multiply-add would halve the rate, so
`rows` outputs go together: the groups of inputs are sorted by which of the outputs use them, and each of the 2^rows - 1 classes has a loop
of its own, without a branch, in which one load of X serves all rows of the class.

Measured on two cores of a Zen 4, 128 tokens, 768x768 to 3072x768, against the dense kernel: int8 1.6 to 1.8x at 50 % zeros, 3.1 to 3.8x
at 80 %; bfloat16 1.67x and 3.0x. One row at a time: 1.0 to 1.4x at 50 %.
"""

import math
from typing import Any

import numpy as np

from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.kernels.row_block_spmm import balanced, index_is_affine
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.tiles import Tiles, groups_for, makespan, panel_of, widened
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T
from sparsecc.codegen.zeros import INDEX_BYTES, ZeroProfile

Expr = Any


_MOST_ROWS = 4  # classes double with each
_PER_POSITION = {4: 1.0, 3: 1.05, 2: 1.15, 1: 1.9}  # time by vectors of a tile: int8 on Zen 5, 192 tokens, 50 and 80 % zeros
_INDEXED = 1.25  # bytes of a group with its place, over those of its weights alone: a place serves two rows or so


def space(spec: MatmulSpec, density: float, target: Target) -> list[Tiles]:
    """Best guess first. Sums take up to half of the registers: with more, classes of many rows spill.

    density: share of the groups that are stored.
    """
    lanes, size = target.lanes, groups.SIZE[spec.dtype]
    best_rows = 3 if spec.dtype == "int8" else 4  # bfloat16's multiply-add takes longer, so that it gains more from saved loads
    found, tiles = {}, {}
    for vectors in (8, 6, 4, 3, 2, 1):
        tile = vectors * lanes
        if tile > max(spec.positions, lanes):
            continue
        most = min(max(target.registers // (2 * vectors), 1), _MOST_ROWS, spec.rows)
        tiles[tile] = list(range(most, 0, -1))
        if vectors in _PER_POSITION:
            panel = panel_of(spec, max(3 * target.l1_bytes // 2 * size // (4 * tile), 1))
            rows = min(best_rows, most)
            parts = _parts(spec, tile, ceil_div(spec.rows, rows), density, target)
            jobs = makespan(spec.batch * ceil_div(spec.positions, tile) * parts, target.threads)
            found[Tiles(tile, rows, panel, parts)] = jobs / parts * tile * _PER_POSITION[vectors]
    guesses = sorted(found, key=lambda knobs: (found[knobs], -knobs.tile))
    whole = [knobs for knobs in widened(guesses, spec, tiles) if _whole_groups(spec, knobs.panel)]
    return whole or [Tiles(k.tile, k.rows, spec.depth, k.groups) for k in guesses]


def _parts(spec: MatmulSpec, tile: int, row_blocks: int, density: float, target: Target) -> int:
    """Tiles divided among the threads, each with all weights; or the rows, in parts that stay in the L2, each with all of X. Weights that
    the L2 holds are not read again anyhow, and layers whose tiles stay with their thread read nothing from another one's L2.

    Of BERT-base with 128 tokens at 50 % zeros parts gain 2 %, at 80 % they lose up to 15 % when a neighbour uses the L3, too.
    """
    jobs, threads = spec.batch * ceil_div(spec.positions, tile), target.threads
    x_bytes, weight_bytes = 4 * math.prod(spec.x_shape), _INDEXED * density * spec.weight_bytes
    parts = threads * math.ceil(2 * weight_bytes / threads / target.l2_bytes)
    worth_it = x_bytes < target.l2_bytes // 2 and weight_bytes > target.l2_bytes
    return parts if worth_it and parts <= row_blocks else groups_for(jobs, threads, row_blocks)


def _whole_groups(spec: MatmulSpec, panel: int) -> bool:
    """Whether panels end where groups do."""
    return panel == spec.depth or panel % spec.channels == 0 or panel % groups.SIZE[spec.dtype] == 0


def prepare(
    matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Tiles, scales: np.ndarray | None, target: Target
) -> list[np.ndarray]:
    """matrix, scales: as for `dense_group_matmul`. Returns

    values int32: for each panel, block of rows, class and group of inputs in it one value for each row of the class; places of those
    groups (see `_places`); counts int32 [panels, row blocks, classes] of the groups; first int32 [panels, row blocks, 2]: where each
    block's values and places begin; bounds [parts + 1] (row blocks of each part, balanced by work); what sums begin with, scales and
    bias, all [row blocks · rows].
    """
    height, panels = knobs.rows, _panels(spec, knobs)
    row_blocks = ceil_div(spec.rows, height)
    weights = groups.grouped(matrix, len(spec.taps), spec.dtype)
    padded = np.zeros((row_blocks * height, weights.shape[1]), np.int32)
    padded[: spec.rows] = weights
    shaped = padded.reshape(row_blocks, height, panels, -1).transpose(2, 0, 3, 1)  # panel, row block, group, row
    kept = shaped != 0
    used = (kept << np.arange(height)).sum(axis=3)  # which rows use a group, as bits
    counts = np.stack([(used == users).sum(axis=2) for users in _classes(height)], axis=2).astype(np.int32)
    lengths = np.stack([(counts * [users.bit_count() for users in _classes(height)]).sum(axis=2), counts.sum(axis=2)], axis=2)
    ends = np.cumsum(lengths.reshape(-1, 2), axis=0)
    p, i, j = np.nonzero(used)
    order = np.lexsort((j, used[p, i, j], i, p))
    p, i, j = p[order], i[order], j[order]
    values, places = shaped[p, i, j][kept[p, i, j]], _places(p * shaped.shape[2] + j, spec)
    if not len(places):  # a buffer may not be empty
        values, places = np.zeros(1, np.int32), np.zeros(1, places.dtype)
    offsets = padded_bias(bias, spec.rows, row_blocks * height)
    begins = np.zeros(row_blocks * height, groups.SUM[spec.dtype])
    begins[: spec.rows] = groups.starts(matrix, offsets[: spec.rows], spec.dtype)
    return [
        np.ascontiguousarray(values),
        places,
        counts,
        (ends - lengths.reshape(-1, 2)).reshape(lengths.shape).astype(np.int32),
        balanced(kept.sum(axis=(0, 2, 3)), knobs.groups),
        begins,
        padded_bias(scales, spec.rows, row_blocks * height),
        offsets,
    ]


def _classes(height: int) -> range:
    """Nonempty sets of a block's rows, as bits."""
    return range(1, 1 << height)


def _panels(spec: MatmulSpec, knobs: Tiles) -> int:
    return spec.depth // knobs.panel


def _places(inputs: np.ndarray, spec: MatmulSpec) -> np.ndarray:
    """The group's number as uint16 where that says where it lies in X, otherwise its offset in X's item, in lanes, as int32."""
    if index_is_affine(spec):
        return inputs.astype(np.uint16)
    tap, group = np.divmod(inputs, spec.channel_groups)
    return (np.asarray(spec.taps)[tap] + group * spec.channel_stride).astype(np.int32)


def build(spec: MatmulSpec, knobs: Tiles, target: Target):
    """PrimFunc(X, token scales and zero points [batch, channel_stride], values, places, counts, first, bounds, starts, scales, bias,
    residual, Y) for any number of values, so that layers share it. `residual` and what tokens have: as for `dense_group_matmul`."""
    lanes, height, tile, parts, dtype = target.lanes, knobs.rows, knobs.tile, knobs.groups, spec.dtype
    vectors, panels, classes = tile // lanes, _panels(spec, knobs), len(_classes(height))
    row_blocks, tiles = ceil_div(spec.rows, height), ceil_div(spec.positions, tile)
    padded, last_start = row_blocks * height, spec.positions - tile
    rows, pitch, stride = spec.rows, spec.y_pitch, spec.channel_stride
    ragged = padded != rows
    x_shape, y_shape = spec.x_shape, spec.y_shape
    x_size, y_size = math.prod(x_shape), math.prod(y_shape)
    r_shape = y_shape if spec.epilogue.residual else (padded,)
    s_shape = (spec.batch, stride) if dtype == "int8" else (padded,)
    r_size, s_size = math.prod(r_shape), math.prod(s_shape)
    scratch = padded * tile if panels > 1 else 1
    place_type, scale = ("uint16", spec.channel_stride) if index_is_affine(spec) else ("int32", 1)
    batch, x_stride, epilogue, sums = spec.batch, x_size // spec.batch, spec.epilogue, groups.SUM[dtype]

    @T.prim_func
    def sparse_group_matmul(
        x: T.Buffer(x_shape, "int32"),
        token_scales: T.Buffer(s_shape, "float32"),
        token_zeros: T.Buffer(s_shape, sums),
        values: T.handle,
        places: T.handle,
        N: T.Buffer((panels, row_blocks, classes), "int32"),
        F: T.Buffer((panels, row_blocks, 2), "int32"),
        G: T.Buffer((parts + 1,), "int32"),
        starts: T.Buffer((padded,), sums),
        scales: T.Buffer((padded,), "float32"),
        B: T.Buffer((padded,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        length = T.int32()
        count = T.int32()
        V = T.match_buffer(values, (length,), "int32")
        J = T.match_buffer(places, (count,), place_type)
        X = T.decl_buffer((x_size,), "int32", data=x.data)
        S = T.decl_buffer((s_size,), "float32", data=token_scales.data)
        Z = T.decl_buffer((s_size,), sums, data=token_zeros.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)
        for job in T.parallel(batch * tiles * parts):
            acc = T.alloc_local((height * tile,), sums)
            value = T.alloc_local((1,), "int32")
            place = T.alloc_local((1,), "int32")
            partial = T.alloc_buffer((scratch,), sums)
            part: T.let = job // (batch * tiles)  # a thread's jobs follow each other: it keeps its part of the stream for all tiles
            item: T.let = job // tiles % batch
            start: T.let = T.min(job % tiles * tile, last_start)
            for p in range(panels):
                # Loops begin at zero: TVM 0.27 addresses wrongly in a serial loop whose data-dependent start is not zero.
                for ii in range(G[part + 1] - G[part]):
                    i: T.let = G[part] + ii
                    for r in T.unroll(height):
                        for v in T.unroll(vectors):
                            if p == 0:
                                acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.begin(
                                    T.Broadcast(starts[i * height + r], lanes),
                                    lambda: Z[T.ramp(item * stride + start + v * lanes, 1, lanes)],
                                    dtype,
                                )
                            else:
                                acc[T.ramp(r * tile + v * lanes, 1, lanes)] = partial[T.ramp((i * height + r) * tile + v * lanes, 1, lanes)]
                    value[0] = F[p, i, 0]
                    place[0] = F[p, i, 1]
                    for c in T.unroll(classes):
                        for _ in range(N[p, i, c]):
                            at: T.let = item * x_stride + T.Cast("int32", J[place[0]]) * scale + start
                            for r in T.unroll(height):
                                if _uses(c, r):
                                    for v in T.unroll(vectors):
                                        acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.dot(
                                            acc[T.ramp(r * tile + v * lanes, 1, lanes)],
                                            X[T.ramp(at + v * lanes, 1, lanes)],
                                            V[value[0] + _users_before(c, r)],
                                            dtype,
                                            target,
                                        )
                            value[0] = value[0] + _users_before(c, height)
                            place[0] = place[0] + 1
                    for r in T.unroll(height):
                        for v in T.unroll(vectors):
                            if p == panels - 1:
                                if (not ragged) or i * height + r < rows:
                                    for l in T.vectorized(lanes):
                                        Y[(item * rows + i * height + r) * pitch + start + v * lanes + l] = apply(
                                            epilogue,
                                            groups.result(
                                                acc[r * tile + v * lanes + l],
                                                dtype,
                                                lambda: scales[i * height + r] * S[item * stride + start + v * lanes + l],
                                                B[i * height + r],
                                            ),
                                            lambda: R[(item * rows + i * height + r) * pitch + start + v * lanes + l],
                                        )
                            else:
                                partial[T.ramp((i * height + r) * tile + v * lanes, 1, lanes)] = acc[T.ramp(r * tile + v * lanes, 1, lanes)]

    return groups.linked(sparse_group_matmul, dtype, target)


def _uses(c: Expr, row: Expr) -> Expr:
    """Whether the row belongs to class number c, which is the set c + 1."""
    return T.bitwise_and(T.shift_right(c + 1, row), 1) == 1


def _users_before(c: Expr, row: Expr) -> Expr:
    """How many rows before this one belong to class number c."""
    total = T.int32(0)
    for other in range(_MOST_ROWS):
        total = total + T.if_then_else(other < row, T.bitwise_and(T.shift_right(c + 1, other), 1), 0)
    return total


KERNEL = Kernel(
    space,
    prepare,
    build,
    Tiles,
    bias=7,
    dtypes=("int8", "bfloat16"),
    structure=lambda matrix, dtype, _: ZeroProfile.of_blocks(groups.grouped(matrix, 1, dtype) != 0, 1),
    zeros=lambda zeros: (zeros.density,),
    index_bytes=lambda _, dtype: INDEX_BYTES / groups.SIZE[dtype],
)
