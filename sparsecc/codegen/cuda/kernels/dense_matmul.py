"""C[m, n] = Σ_k A[m, k] · B[n, k] in bfloat16 or float16 with float32 sums, for Hopper.

torch has cuBLAS for this, and keeps it. The kernel shows what the pieces are worth from which the sparse ones are made: ring, products of
warpgroups, order of tiles. 8192 x 8192 x 8192 on an H200, in turns: 1.60 ms, cuBLAS 1.65; one call on a cool device: 1.42 ms, cuBLAS 1.57.

As many blocks as processors stay and take up tiles of 128 x `columns`. A producer's thread keeps a ring of stages of 64 inputs filled by
copies of boxes, two warpgroups multiply 64 rows each. Blocks of a cluster compute tiles below one another and bring half of B each, for
both. Results leave through shared memory, 64 columns at a time, by copies that end while the next tile is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Boxes, Geometry
from sparsecc.codegen.cuda.pieces import order, wgmma
from sparsecc.codegen.cuda.pieces.ring import Ring
from sparsecc.codegen.cuda.script import T

ROWS = 128  # of a tile
_GROUP = 64  # rows of a warpgroup
_PIECE = 64  # columns that are stored at a time
_PIECE_BYTES = _GROUP * _PIECE * 2
_LOAD = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
_SHARE = _LOAD + ".multicast::cluster"
_STORE = "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group"
_PACK = {"bfloat16": "cvt.rn.bf16x2.f32", "float16": "cvt.rn.f16x2.f32"}


@dataclass(frozen=True)
class MatmulSpec:
    """rows, columns: of C.  depth: what is summed over, a multiple of 8, as `columns` is."""

    rows: int
    columns: int
    depth: int
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Tiles:
    """columns: of a tile.  stages: of 64 inputs in flight.  cluster: blocks that share B.  band: rows of tiles that are computed side by
    side.  blocks: of the grid, as many as the device has processors.  pieces: of a warpgroup's results that wait to be stored."""

    columns: int = 256
    stages: int = 4
    cluster: int = 1
    band: int = 16
    blocks: int = 132
    pieces: int = 2

    @property
    def stage_bytes(self) -> int:
        return (ROWS + self.columns) * wgmma.INPUTS * 2

    @property
    def shared_bytes(self) -> int:
        return self.stages * self.stage_bytes + 2 * self.pieces * _PIECE_BYTES + 2 * 8 * self.stages


def space(spec: MatmulSpec, arch: Arch) -> list[Tiles]:
    """Nothing where the architecture has no `wgmma`, or rows of A, B or C are no multiple of 16 bytes."""
    if arch.name != "sm_90a" or spec.depth % 8 or spec.columns % 8:
        return []
    found = [
        Tiles(columns, stages, cluster, band)
        for columns, stages in ((256, 4), (256, 3), (128, 6), (128, 4))
        for cluster in (1, 2)
        for band in (16, 8, 4)
    ]
    return [tiles for tiles in found if tiles.shared_bytes <= arch.shared_bytes]


def geometry(spec: MatmulSpec, knobs: Tiles, arch: Arch) -> Geometry:
    maps = (
        ("A", Boxes(2, (spec.rows, spec.depth), (spec.depth * 2,), (ROWS, wgmma.INPUTS))),
        ("B", Boxes(2, (spec.columns, spec.depth), (spec.depth * 2,), (knobs.columns // knobs.cluster, wgmma.INPUTS))),
        ("C", Boxes(2, (spec.rows, spec.columns), (spec.columns * 2,), (_GROUP, _PIECE))),
    )
    return Geometry((knobs.blocks, 1, 1), 3 * 128, knobs.shared_bytes, knobs.cluster, maps=maps)


def build(spec: MatmulSpec, knobs: Tiles, arch: Arch):
    """PrimFunc(A, B, C), all of them tensor maps."""
    rows, columns, stages, cluster, pieces = ROWS, knobs.columns, knobs.stages, knobs.cluster, knobs.pieces
    steps = -(-spec.depth // wgmma.INPUTS)
    below, beside = -(-spec.rows // (rows * cluster)), -(-spec.columns // columns)
    tiles, clusters = below * beside, knobs.blocks // cluster
    chain = wgmma.instruction(columns, spec.dtype)
    pack = _PACK[spec.dtype]
    a_bytes, b_bytes = rows * wgmma.INPUTS * 2, columns * wgmma.INPUTS * 2
    part, part_bytes = columns // cluster, b_bytes // cluster
    inner = wgmma.INPUTS // wgmma.STEP
    everyone = (1 << cluster) - 1

    def place(tile, rank):
        """Its first row and column in C."""
        row, column = order.banded(tile, below, beside, knobs.band)
        return T.cast(row, "int32") * (rows * cluster) + rank * rows, T.cast(column, "int32") * columns

    @T.prim_func
    def dense_matmul(A: T.handle("tensormap"), B: T.handle("tensormap"), C: T.handle("tensormap")):
        T.func_attr({"global_symbol": "dense_matmul"})
        T.device_entry()
        block = T.cta_id([knobs.blocks])
        warp = T.warp_id([12])
        lane = T.lane_id([32])
        pool = T.SMEMPool()
        a = pool.alloc((stages * a_bytes,), "uint8", align=1024)
        b = pool.alloc((stages * b_bytes,), "uint8", align=1024)
        c = pool.alloc((2 * pieces * _PIECE_BYTES,), "uint8", align=1024)
        ring = T.meta_var(Ring(pool, stages, 8, cluster))
        pool.commit()
        ring.begin(warp * 32 + lane)
        tile: T.uint32 = T.cast(block // cluster, "uint32")
        step: T.uint32 = T.uint32(0)
        rank = T.meta_var(block % cluster)
        if warp < 4:
            T.ptx["setmaxnreg.dec.sync.aligned.u32"](40)
            if warp == 0 and lane == 0:
                while tile < T.uint32(tiles):
                    row: T.int32 = place(tile, rank)[0]
                    column: T.int32 = place(tile, rank)[1]
                    k: T.int32 = 0
                    while k < steps:
                        ring.claim(step)
                        ring.expect(step, a_bytes + b_bytes)
                        at = T.meta_var(T.cast(step % stages, "int32"))
                        bar = T.meta_var(ring.bar(step))
                        T.ptx[_LOAD](a.ptr_to([at * a_bytes]), T.address_of(A), k * 64, row, bar)
                        if cluster == 1:
                            T.ptx[_LOAD](b.ptr_to([at * b_bytes]), T.address_of(B), k * 64, column, bar)
                        else:
                            T.ptx[_SHARE](
                                b.ptr_to([at * b_bytes + rank * part_bytes]),
                                T.address_of(B), k * 64, column + rank * part, bar, T.uint16(everyone),
                            )  # fmt: skip
                        step = step + T.uint32(1)
                        k = k + 1
                    tile = tile + T.uint32(clusters)
        else:
            T.ptx["setmaxnreg.inc.sync.aligned.u32"](232)
            group: T.int32 = warp // 4 - 1
            sums = T.alloc_local([columns // 2], "float32")
            halves = T.alloc_local([4], "uint32")
            left: T.uint64 = wgmma.descriptor(a.ptr_to([0]), group * (_GROUP * wgmma.INPUTS * 2))
            right: T.uint64 = wgmma.descriptor(b.ptr_to([0]))
            while tile < T.uint32(tiles):
                for k in T.serial(steps):
                    at = T.meta_var(T.cast(step % stages, "int32"))
                    ring.wait(step)
                    wgmma.begin()
                    for i in T.unroll(inner):
                        wgmma.multiply(
                            chain,
                            sums,
                            columns,
                            wgmma.moved(left, at * a_bytes + i * 32),
                            wgmma.moved(right, at * b_bytes + i * 32),
                            k + i > 0,
                        )
                    wgmma.end()
                    wgmma.wait(1)
                    if k > 0:
                        ring.release(step - T.uint32(1), lane)
                    step = step + T.uint32(1)
                wgmma.wait(0)
                ring.release(step - T.uint32(1), lane)
                for p in T.unroll(columns // _PIECE):
                    at = T.meta_var((group * pieces + p % pieces) * _PIECE_BYTES)
                    if warp % 4 == 0 and lane == 0:
                        T.ptx["cp.async.bulk.wait_group.read"](pieces - 1)
                    T.cuda.warpgroup_sync(group + 1)
                    for j in T.unroll(_PIECE // 16):
                        for i in T.unroll(4):
                            T.ptx[pack](halves[i], sums[p * 32 + j * 8 + i * 2 + 1], sums[p * 32 + j * 8 + i * 2])
                        T.ptx["stmatrix.sync.aligned.m8n8.x4.shared.b16"](
                            c.ptr_to([at + wgmma.swizzled(warp % 4 * 16 + lane % 16, j * 2 + lane // 16)]),
                            halves[0],
                            halves[1],
                            halves[2],
                            halves[3],
                        )
                    T.ptx.fence.proxy.async_.shared__cta()
                    T.cuda.warpgroup_sync(group + 1)
                    if warp % 4 == 0 and lane == 0:
                        T.ptx[_STORE](
                            T.address_of(C), place(tile, rank)[1] + p * _PIECE, place(tile, rank)[0] + group * _GROUP, c.ptr_to([at])
                        )
                        T.ptx["cp.async.bulk.commit_group"]()
                tile = tile + T.uint32(clusters)
            if warp % 4 == 0 and lane == 0:
                T.ptx["cp.async.bulk.wait_group"](0)
        if cluster > 1:
            T.cuda.cluster_sync()

    return dense_matmul
