"""How a warp goes through units of `streams`: block by block, each lane through its own stream.

A walk calls what a kernel does before a unit, with a block of its entries, and after it. The second gets 8 numbers in four words and the
gaps before them, and runs only in lanes whose streams go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsecc.codegen.cuda.streams import HEADER, LANES, UNIT
from sparsecc.codegen.cuda.script import T

BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
ALL = 0xFFFFFFFF
_MOST = LANES * 20  # bytes of a block of all streams
BYTES = 1 << 31  # that packed weights can have


def ring(segment: int, segments: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Through a ring of bulk copies in shared memory, one of each warp.  segment: bytes of a copy, at least those of a block.

    Returns `start(W, ring, full, policy, first, size, warp, lane)`, which needs only weights, and
    `walk(before, use, after, W, ring, full, policy, first, size, warp, lane, count)`: `first` in 16 bytes is where the warp's units begin,
    `size` their bytes, 0 for a warp that has none.
    """
    whole = segment * segments

    @T.inline
    def fetch(W, buffer, full, policy, first, size, warp, j):
        place = T.meta_var(warp * segments + j % segments)
        left = T.meta_var(T.cast(T.min(segment, size[0] - j * segment), "uint32"))
        source = T.meta_var(W.ptr_to([first[0] + j * (segment // UNIT), 0]))
        T.ptx.mbarrier.arrive.expect_tx.shared.b64(full.ptr_to([place]), left)
        T.ptx[BULK](buffer.ptr_to([place * segment]), source, left, full.ptr_to([place]), policy[0])

    @T.inline
    def start(W, buffer, full, policy, first, size, warp, lane):
        if lane == 0:
            for i in T.unroll(segments):
                T.ptx.mbarrier.init.shared.b64(full.ptr_to([warp * segments + i]), T.uint32(1))
            T.ptx.fence.mbarrier_init.release.cluster()
            for i in T.unroll(segments):
                if i * segment < size[0]:
                    fetch(W, buffer, full, policy, first, size, warp, i)
        T.cuda.warp_sync()

    @T.inline
    def arrived(W, buffer, full, policy, first, size, warp, lane, ready, upto):
        while ready[0] < T.min(upto, size[0]):
            j = T.meta_var(ready[0] // segment)
            T.cuda.mbarrier_wait(full.ptr_to([warp * segments + j % segments]), (j // segments) % 2)
            again = T.meta_var(j + segments - 2)  # in the place of what all lanes have read: the segment before the last one
            if j >= 2 and again * segment < size[0]:
                T.cuda.warp_sync()
                if lane == 0:
                    fetch(W, buffer, full, policy, first, size, warp, again)
            ready[0] = ready[0] + segment

    @T.inline
    def walk(before, use, after, W, buffer, full, policy, first, size, warp, lane, count):
        v = T.alloc_local([4], "uint32")
        gaps = T.alloc_local([1], "uint32")
        ready = T.alloc_local([1], "int32")  # bytes that have arrived
        at = T.alloc_local([1], "int32")
        length = T.alloc_local([1], "uint32")
        number = T.alloc_local([1], "uint32")
        mask = T.alloc_local([1], "uint32")
        ones = T.alloc_local([2], "uint32")  # streams that have this block, and those of lower lanes
        ready[0] = 0
        at[0] = 0
        for u in T.serial(count):
            before(u)
            length[0] = T.uint32(0)
            if size[0] > 0:
                arrived(W, buffer, full, policy, first, size, warp, lane, ready, at[0] + HEADER)
                T.ptx["ld.shared.u8"](length[0], buffer.ptr_to([warp * whole + ((at[0] + lane) & (whole - 1))]))
                at[0] = at[0] + HEADER
            number[0] = T.uint32(0)
            mask[0] = T.cuda.ballot_sync(T.uint32(ALL), length[0] > number[0])
            while mask[0] != T.uint32(0):
                T.ptx["popc.b32"](ones[0], mask[0])
                T.ptx["popc.b32"](ones[1], mask[0] & ((T.uint32(1) << T.cast(lane, "uint32")) - T.uint32(1)))
                arrived(W, buffer, full, policy, first, size, warp, lane, ready, at[0] + _MOST)
                streams = T.meta_var(T.cast(ones[0], "int32"))
                mine = T.meta_var(T.cast(ones[1], "int32"))
                if length[0] > number[0]:
                    numbers = T.meta_var(warp * whole + ((at[0] + mine * 16) & (whole - 1)))
                    T.ptx["ld.shared.v4.b32"](v[0], v[1], v[2], v[3], buffer.ptr_to([numbers]))
                    T.ptx["ld.shared.b32"](gaps[0], buffer.ptr_to([warp * whole + ((at[0] + streams * 16 + mine * 4) & (whole - 1))]))
                    use(v, gaps[0])
                at[0] = at[0] + streams * 16 + ((streams * 4 + UNIT - 1) & -UNIT)
                number[0] = number[0] + T.uint32(1)
                mask[0] = T.cuda.ballot_sync(T.uint32(ALL), length[0] > number[0])
            after(u)

    return start, walk


def straight() -> Callable[..., Any]:
    """From global memory into registers, one block ahead.

    Returns `walk(before, use, after, W, first, size, lane, count)`, as `ring` has it."""

    @T.inline
    def load(W, v, gaps, ones, mask, at, length, number, lane, i):
        mask[0] = T.cuda.ballot_sync(T.uint32(ALL), length[0] > number[0])
        T.ptx["popc.b32"](ones[0], mask[0])
        T.ptx["popc.b32"](ones[1], mask[0] & ((T.uint32(1) << T.cast(lane, "uint32")) - T.uint32(1)))
        streams = T.meta_var(T.cast(ones[0], "int32"))
        mine = T.meta_var(T.cast(ones[1], "int32"))
        if length[0] > number[0]:
            j = T.meta_var(i * 4)
            T.ptx["ld.global.nc.L1::no_allocate.v4.b32"](v[j], v[j + 1], v[j + 2], v[j + 3], W.ptr_to([at[0] + mine, 0]))
            T.ptx["ld.global.nc.L1::no_allocate.b32"](gaps[i], W.ptr_to([at[0] + streams + mine // 4, mine % 4 * 4]))
        at[0] = at[0] + streams + (streams + 3) // 4

    @T.inline
    def walk(before, use, after, W, first, size, lane, count):
        v = T.alloc_local([8], "uint32")
        gaps = T.alloc_local([2], "uint32")
        at = T.alloc_local([1], "int32")  # in 16 bytes
        length = T.alloc_local([1], "uint32")
        number = T.alloc_local([1], "uint32")
        mask = T.alloc_local([1], "uint32")
        ones = T.alloc_local([2], "uint32")
        at[0] = first[0]
        for u in T.serial(count):
            before(u)
            length[0] = T.uint32(0)
            if size[0] > 0:
                T.ptx["ld.global.nc.L1::no_allocate.u8"](length[0], W.ptr_to([at[0] + lane // UNIT, lane % UNIT]))
                at[0] = at[0] + HEADER // UNIT
            number[0] = T.uint32(0)
            load(W, v, gaps, ones, mask, at, length, number, lane, 0)
            while mask[0] != T.uint32(0):
                number[0] = number[0] + T.uint32(1)
                load(W, v, gaps, ones, mask, at, length, number, lane, 1)
                if length[0] + T.uint32(1) > number[0]:
                    use(v, gaps[0])
                for i in T.unroll(4):
                    v[i] = v[4 + i]
                gaps[0] = gaps[1]
            after(u)

    return walk
