"""Reads bytes by bulk copies and does nothing else: the least time of a kernel that needs as many, be it ever so clever.

On an H200, one after another over rotated copies: 66 MB in 14.8 µs (4.48 TB/s) where kernels overlap by programmatic dependent launch, in
16.4 where they do not; 30 MB in 7.0 µs; 2 GB at 4.59 TB/s.

A block takes every `blocks`-th piece. One thread keeps its ring filled; a warp looks at the first 128 bytes of each piece and adds them up,
so that the copies are seen to have come.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.pieces.ring import Ring
from sparsecc.codegen.cuda.script import T

LANES = 32
_BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"


@dataclass(frozen=True)
class ReadSpec:
    """count: of bytes, a multiple of 128."""

    count: int


@dataclass(frozen=True)
class Pieces:
    """piece: bytes of a copy, a multiple of 128.  stages: copies in flight in a block.  blocks: of the grid.  dependent: begins to read
    before the kernel before it has ended."""

    piece: int = 16384
    stages: int = 6
    blocks: int = 264
    dependent: bool = True

    @property
    def shared_bytes(self) -> int:
        return self.stages * (self.piece + 16)


def space(spec: ReadSpec, arch: Arch) -> list[Pieces]:
    """Nothing where the architecture has no bulk copies."""
    if not arch.bulk_copies or spec.count % 128:
        return []
    found = [
        Pieces(piece, stages, blocks)
        for piece, stages in ((16384, 6), (8192, 12), (32768, 3), (16384, 3), (8192, 6), (4096, 12))
        for blocks in (264, 132, 528)
    ]
    return [pieces for pieces in found if pieces.shared_bytes * -(-pieces.blocks // 132) <= arch.shared_bytes]


def geometry(spec: ReadSpec, knobs: Pieces, arch: Arch) -> Geometry:
    return Geometry((knobs.blocks, 1, 1), 64, knobs.shared_bytes, dependent=knobs.dependent)


def build(spec: ReadSpec, knobs: Pieces, arch: Arch):
    """PrimFunc(X, S): X the bytes, S uint32 [blocks, 32]: of each block the sums of the first 32 words of its pieces."""
    count, piece, blocks, stages = spec.count, knobs.piece, knobs.blocks, knobs.stages
    pieces = -(-count // piece)
    last = count - (pieces - 1) * piece

    @T.prim_func
    def read_memory(x: T.handle, s: T.handle):
        T.func_attr({"global_symbol": "read_memory"})
        X = T.match_buffer(x, (count,), "uint8", align=16)
        S = T.match_buffer(s, (blocks, LANES), "uint32", align=16)
        T.device_entry()
        block = T.cta_id([blocks])
        warp = T.warp_id([2])
        lane = T.lane_id([32])
        pool = T.SMEMPool()
        room = pool.alloc((stages * piece,), "uint8", align=128)
        ring = T.meta_var(Ring(pool, stages, 1))
        pool.commit()
        total = T.alloc_local([1], "uint32")
        word = T.alloc_local([1], "uint32")
        policy = T.alloc_local([1], "uint64")
        ring.begin(warp * 32 + lane)
        T.ptx.griddepcontrol.launch_dependents()
        at: T.uint32 = T.cast(block, "uint32")
        step: T.uint32 = T.uint32(0)
        if warp == 0:
            if lane == 0:
                T.ptx["createpolicy.fractional.L2::evict_first.b64"](policy[0], T.float32(1.0))
                while at < T.uint32(pieces):
                    here = T.meta_var(T.if_then_else(at == T.uint32(pieces - 1), T.uint32(last), T.uint32(piece)))
                    ring.claim(step)
                    ring.expect(step, here)
                    T.ptx[_BULK](
                        room.ptr_to([T.cast(step % stages, "int32") * piece]),
                        X.ptr_to([T.cast(at, "int64") * piece]), here, ring.bar(step), policy[0],
                    )  # fmt: skip
                    step = step + T.uint32(1)
                    at = at + T.uint32(blocks)
        else:
            total[0] = T.uint32(0)
            while at < T.uint32(pieces):
                ring.wait(step)
                T.ptx["ld.shared.b32"](word[0], room.ptr_to([T.cast(step % stages, "int32") * piece + lane * 4]))
                total[0] = total[0] + word[0]
                ring.release(step, lane)
                step = step + T.uint32(1)
                at = at + T.uint32(blocks)
            T.ptx.griddepcontrol.wait()
            S[block, lane] = total[0]

    return read_memory
