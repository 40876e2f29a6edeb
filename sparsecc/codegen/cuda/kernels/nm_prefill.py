"""2:4 weights times many tokens, in bfloat16 or float16, for Hopper: bound by the tensor cores, which skip half of the products.

W is packed as for few tokens (`pack`), so that one copy serves both: what a lane loads for `mma.sp` is also its part of a warpgroup's
sparse product. Weights are the left factor, in registers; tokens are the right one, in shared memory. Tiles, ring and order are those of
the dense matmul. Results leave transposed through shared memory, 64 tokens or fewer at a time.

Tokens are copied in boxes, of which those that hold none are left out: zeros in the place of 128 of 256 tokens took 63 µs, nothing there
28. One thread starts a copy in 50 ns, so that each warp of the producer has its own boxes.

14336 x 4096 on an H200, in turns, cuBLAS and cuSPARSELt beside it: 128 tokens 22 µs, 34, 37; 512 tokens 64 µs, 96, 67; 2048 tokens 230,
351, 240; 16384 tokens 1847, 2856, 1900.
"""

from __future__ import annotations

from dataclasses import dataclass

import sparsecc.codegen.cuda.pack as packing
from sparsecc.codegen.cuda import ptx_rows
from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Boxes, Geometry
from sparsecc.codegen.cuda.kernel import Kernel, LinearSpec
from sparsecc.codegen.cuda.kernels.nm_decode import parts, prepare, unpack
from sparsecc.codegen.cuda.pack import TILE, UNIT, packed_depth, packed_tiles
from sparsecc.codegen.cuda.pieces import epilogue, order, wgmma
from sparsecc.codegen.cuda.pieces.ring import Ring
from sparsecc.codegen.cuda.script import T

TOKENS = (128, 256, 512, 2048)  # what knobs are chosen for; any number is computed
UNIT_BYTES, STEP_BYTES = packing.unit_bytes(False), packing.value_bytes(False) // 2
_GROUP = 64  # rows of a warpgroup
_LOAD = "cp.async.bulk.tensor.{}d.shared::cluster.global.mbarrier::complete_tx::bytes"
_STORE = "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group"
_PAIR = {"bfloat16": "cvt.rn.bf16x2.f32", "float16": "cvt.rn.f16x2.f32"}
_REGISTERS = {2: (40, 232), 3: (32, 160)}  # of producer and consumers, by the number of these


@dataclass(frozen=True)
class Tiles:
    """groups: warpgroups of 64 rows each.  columns: tokens of a tile.  stages: of 64 inputs in flight.  cluster: blocks that share X.
    band: tiles of rows that are computed side by side.  blocks: of the grid.  piece: tokens of a warpgroup's results that are stored at a
    time.  pieces: of these that wait to be stored.  box: tokens that are copied at a time."""

    groups: int = 2
    columns: int = 256
    stages: int = 4
    cluster: int = 1
    band: int = 16
    blocks: int = 132
    piece: int = 64
    pieces: int = 2
    box: int = 32

    @property
    def rows(self) -> int:
        return self.groups * _GROUP

    @property
    def stage_bytes(self) -> int:
        return self.rows // TILE * UNIT_BYTES + self.columns * UNIT * 2

    @property
    def piece_bytes(self) -> int:
        return self.piece * _GROUP * 2

    @property
    def shared_bytes(self) -> int:
        return self.stages * self.stage_bytes + self.groups * self.pieces * self.piece_bytes + 2 * 8 * self.stages


def space(spec: LinearSpec, arch: Arch) -> list[Tiles]:
    """Nothing where the architecture has no `wgmma`, or rows of X or Y are no multiple of 16 bytes."""
    if arch.name != "sm_90a" or spec.depth % 8 or spec.outputs % 8:
        return []
    return sorted(
        (tiles for tiles in _space() if tiles.shared_bytes * (tiles.blocks // 132) <= arch.shared_bytes),
        key=lambda tiles: _guess(spec, tiles),
    )


def _space() -> list[Tiles]:
    return [
        Tiles(2, 256, 4),
        Tiles(2, 256, 5, piece=32),
        Tiles(2, 256, 4, band=8),
        Tiles(2, 256, 4, cluster=2, band=8),
        Tiles(2, 128, 7, piece=32, box=16),
        Tiles(1, 256, 5),
        Tiles(1, 128, 8),
        Tiles(1, 64, 11, box=16),
        Tiles(1, 64, 12, box=64),
    ]


def _guess(spec: LinearSpec, tiles: Tiles) -> float:
    """Rounds that all blocks take, times what a round costs; one warpgroup alone keeps the tensor cores less busy than two."""
    count = -(-packed_tiles(spec) * TILE // tiles.rows) * -(-spec.tokens // tiles.columns)
    return -(-count // tiles.blocks) * (1.3 if tiles.groups == 1 else tiles.groups) * (tiles.columns + 64)


def geometry(spec: LinearSpec, knobs: Tiles, arch: Arch) -> Geometry:
    units, width = packed_depth(spec) // UNIT, _GROUP // (2 if spec.gated else 1)
    weights = (packed_tiles(spec), units * (UNIT_BYTES // 128), 32)
    maps = (
        ("W", Boxes(4, weights, (units * UNIT_BYTES, 128), (knobs.rows // TILE, UNIT_BYTES // 128, 32), 0)),
        ("X", Boxes(2, (0, spec.depth), (spec.depth * 2,), (knobs.box, UNIT))),
        ("Y", Boxes(2, (0, spec.outputs), (spec.outputs * 2,), (knobs.piece, width), width * 2)),
    )
    return Geometry((knobs.blocks, 1, 1), (1 + knobs.groups) * 128, knobs.shared_bytes, knobs.cluster, True, maps)


def build(spec: LinearSpec, knobs: Tiles, arch: Arch):
    """PrimFunc(W, X, Y, B, R, tokens), the first three of them tensor maps."""
    ptx_rows.register()
    rows, columns, stages, cluster, groups = knobs.rows, knobs.columns, knobs.stages, knobs.cluster, knobs.groups
    piece, pieces, piece_bytes = knobs.piece, knobs.pieces, knobs.piece_bytes
    units = packed_depth(spec) // UNIT
    below, clusters = -(-packed_tiles(spec) * TILE // (rows * cluster)), knobs.blocks // cluster
    w_bytes, x_bytes = rows // TILE * UNIT_BYTES, columns * UNIT * 2
    box, boxes = knobs.box, columns // knobs.box
    box_bytes, senders = box * UNIT * 2, min(4, boxes // cluster)
    chain, pair, everyone = wgmma.sparse_instruction(columns, spec.dtype), _PAIR[spec.dtype], (1 << cluster) - 1
    few, many = _REGISTERS.get(groups, (0, 0))
    outputs, dtype, gated = spec.outputs, spec.dtype, spec.gated
    width, own = (_GROUP // 2, 8) if gated else (_GROUP, 16)  # outputs of a warpgroup, of a warp
    at_once = 32 if gated else 16  # tokens of a `stmatrix`

    def place(tile, beside, rank):
        """Its first packed row and token."""
        row, column = order.banded(tile, below, beside, knobs.band)
        return T.cast(row, "int32") * (rows * cluster) + rank * rows, T.cast(column, "int32") * columns

    @T.prim_func
    def nm_prefill(W: T.handle("tensormap"), X: T.handle("tensormap"), Y: T.handle("tensormap"), b: T.handle, r: T.handle, tokens: T.int32):
        T.func_attr({"global_symbol": "nm_prefill", "tirx.kernel_launch_params": ["tirx.use_programtic_dependent_launch"]})
        B = T.match_buffer(b, (spec.rows,), dtype)
        R = T.match_buffer(r, (tokens, outputs), dtype)
        T.device_entry()
        block = T.cta_id([knobs.blocks])
        warp = T.warp_id([4 + 4 * groups])
        lane = T.lane_id([32])
        pool = T.SMEMPool()
        x = pool.alloc((stages * x_bytes,), "uint8", align=1024)
        y = pool.alloc((groups * pieces * piece_bytes,), "uint8", align=1024)
        w = pool.alloc((stages * w_bytes,), "uint8", align=128)
        ring = T.meta_var(Ring(pool, stages, 4 * groups, cluster))
        pool.commit()
        ring.begin(warp * 32 + lane)
        T.ptx.griddepcontrol.launch_dependents()
        T.ptx.griddepcontrol.wait()
        beside: T.uint32 = T.cast((tokens + (columns - 1)) // columns, "uint32")
        tiles: T.uint32 = beside * T.uint32(below)
        tile: T.uint32 = T.cast(block // cluster, "uint32")
        step: T.uint32 = T.uint32(0)
        rank = T.meta_var(block % cluster)
        if warp < 4:
            if groups > 1:
                T.ptx["setmaxnreg.dec.sync.aligned.u32"](few)
            if warp < senders and lane == 0:
                while tile < tiles:
                    row: T.int32 = place(tile, beside, rank)[0]
                    column: T.int32 = place(tile, beside, rank)[1]
                    there: T.int32 = T.min((tokens - column + (box - 1)) // box, boxes)
                    k: T.int32 = 0
                    while k < units:
                        at = T.meta_var(T.cast(step % stages, "int32"))
                        bar = T.meta_var(ring.bar(step))
                        ring.claim(step)
                        if warp == 0:
                            ring.expect(step, w_bytes + there * box_bytes)
                            T.ptx[_LOAD.format(3)](w.ptr_to([at * w_bytes]), T.address_of(W), 0, k * (UNIT_BYTES // 128), row // TILE, bar)
                        for i in T.unroll(-(-boxes // cluster // senders)):
                            number = T.meta_var((i * senders + warp) * cluster + rank)
                            if number < there:
                                if cluster == 1:
                                    T.ptx[_LOAD.format(2)](
                                        x.ptr_to([at * x_bytes + number * box_bytes]),
                                        T.address_of(X), k * UNIT, column + number * box, bar,
                                    )  # fmt: skip
                                else:
                                    T.ptx[_LOAD.format(2) + ".multicast::cluster"](
                                        x.ptr_to([at * x_bytes + number * box_bytes]),
                                        T.address_of(X), k * UNIT, column + number * box, bar, T.uint16(everyone),
                                    )  # fmt: skip
                        step = step + T.uint32(1)
                        k = k + 1
                    tile = tile + T.uint32(clusters)
        else:
            if groups > 1:
                T.ptx["setmaxnreg.inc.sync.aligned.u32"](many)
            group: T.int32 = warp // 4 - 1
            sums = T.alloc_local([columns // 2], "float32")
            a = T.alloc_local([16], "uint32")
            e = T.alloc_local([2], "uint32")
            halves = T.alloc_local([4], "uint32")
            bias = T.alloc_local([2], "float32")
            value = T.alloc_local([2], "float32")
            right: T.uint64 = wgmma.descriptor(x.ptr_to([0]))

            @T.inline
            def finish(n, token, output):
                """The sum number n in its place, and for a gated layer with the other factor's, two numbers on."""
                value[n % 2] = epilogue.activated(spec.activation, sums[n] + bias[n // 2 % 2] if spec.bias else sums[n])
                if gated:
                    value[n % 2] = value[n % 2] * (sums[n + 2] + bias[1] if spec.bias else sums[n + 2])
                if spec.residual and token < tokens and output < outputs:
                    value[n % 2] = value[n % 2] + T.cast(R[token, output], "float32")

            while tile < tiles:
                for two in T.serial(units // 2):
                    for n in T.unroll(2):
                        at = T.meta_var(T.cast(step % stages, "int32"))
                        mine = T.meta_var(at * w_bytes + (group * 4 + warp % 4) * UNIT_BYTES)
                        ring.wait(step)
                        for i in T.unroll(2):
                            T.ptx["ld.shared.v4.b32"](
                                a[n * 8 + i * 4], a[n * 8 + i * 4 + 1], a[n * 8 + i * 4 + 2], a[n * 8 + i * 4 + 3],
                                w.ptr_to([mine + i * STEP_BYTES + lane * 16]),
                            )  # fmt: skip
                        T.ptx["ld.shared.b32"](e[n], w.ptr_to([mine + 2 * STEP_BYTES + lane * 4]))
                        wgmma.begin()
                        here = T.meta_var(wgmma.moved(right, at * x_bytes))
                        wgmma.multiply_sparse(chain, sums, columns, a, n * 8, here, e[n], 0, two + n > 0)
                        wgmma.multiply_sparse(chain, sums, columns, a, n * 8 + 4, wgmma.moved(here, 64), e[n], 1, True)
                        wgmma.end()
                        wgmma.wait(1)
                        if two + n > 0:
                            ring.release(step - T.uint32(1), lane)
                        step = step + T.uint32(1)
                wgmma.wait(0)
                ring.release(step - T.uint32(1), lane)
                first: T.int32 = place(tile, beside, rank)[1]
                output: T.int32 = (place(tile, beside, rank)[0] + group * _GROUP) // (_GROUP // width)
                for i in T.unroll(2):
                    bias[i] = T.float32(0)
                    if spec.bias:
                        place_of = T.meta_var(output + warp % 4 * own + lane // 4 + (0 if gated else i * 8))
                        if place_of < outputs:
                            bias[i] = T.cast(B[place_of + (i * outputs if gated else 0)], "float32")
                for p in T.unroll(columns // piece):
                    at = T.meta_var((group * pieces + p % pieces) * piece_bytes)
                    if warp % 4 == 0 and lane == 0:
                        T.ptx["cp.async.bulk.wait_group.read"](pieces - 1)
                    T.cuda.warpgroup_sync(group + 1)
                    for j in T.unroll(piece // at_once):
                        for i in T.unroll(4):
                            # columns 8c to 8c + 7 of the sums, rows of this or the other half of the warp's 16
                            c = T.meta_var(p * (piece // 8) + (j * 4 + i if gated else j * 2 + i // 2))
                            half = T.meta_var(0 if gated else i % 2)
                            for m in T.unroll(2):
                                finish(
                                    c * 4 + half * 2 + m, first + c * 8 + lane % 4 * 2 + m, output + warp % 4 * own + lane // 4 + half * 8
                                )
                            T.ptx[pair](halves[i], value[1], value[0])
                        line = T.meta_var(j * 32 + lane if gated else j * 16 + lane // 16 * 8 + lane % 8)
                        chunk = T.meta_var(warp % 4 if gated else warp % 4 * 2 + lane // 8 % 2)
                        T.ptx["stmatrix.sync.aligned.m8n8.x4.trans.shared.b16"](
                            y.ptr_to([at + wgmma.swizzled(line, chunk, width * 2)]), halves[0], halves[1], halves[2], halves[3]
                        )
                    T.ptx.fence.proxy.async_.shared__cta()
                    T.cuda.warpgroup_sync(group + 1)
                    if warp % 4 == 0 and lane == 0:
                        T.ptx[_STORE](T.address_of(Y), output, first + p * piece, y.ptr_to([at]))
                        T.ptx["cp.async.bulk.commit_group"]()
                tile = tile + T.uint32(clusters)
            if warp % 4 == 0 and lane == 0:
                T.ptx["cp.async.bulk.wait_group"](0)
        if cluster > 1:
            T.cuda.cluster_sync()

    return nm_prefill


KERNEL = Kernel(("2:4",), TOKENS, Tiles, parts, space, prepare, unpack, build, geometry, "nm_expand", any_tokens=True)
