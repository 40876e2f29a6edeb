"""How a warp goes through units of `streams`: block by block, each lane through its own stream, from global memory into registers.

    open   loads the first unit's lengths and its first blocks: weights only, so that it may stand before `griddepcontrol.wait`
    walk   calls what a kernel does before a unit, with a block of its entries, and after it

There was a ring of bulk copies in shared memory before. Its waits took a fifth of all instructions, of which there are too many, and its
memory is better used for warps and copies of X: 26.9 µs with it, 26.1 without for 4 tokens of 14336x4096 with 60 % of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsecc.codegen.cuda.script import T
from sparsecc.codegen.cuda.streams import WORDS

ALL = 0xFFFFFFFF
BYTES = 1 << 31  # that packed weights can have
_LOAD = "ld.global.nc.L1::no_allocate"


def walker(slots: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """slots: blocks whose loads are in flight.

    Returns `open(at, W, starts, lengths, v, gaps, length, place, count, lane)` and `walk(at, before, use, after, W, starts, lengths, v,
    gaps, length, place, count, lane)`, for `count` units: `at(u, where)` puts the number of the u-th into `where[0]`. The buffers are the
    walk's own: uint32 v [4 · slots], gaps [slots], length [3], int32 place [3]. `before(u)`, `use(v, slot, gaps)` and `after(u)`: 8 numbers
    are in v from 4 · slot on, in gaps the gaps before them.
    """

    @T.inline
    def load(W, v, gaps, length, place, lane, i):
        mask = T.alloc_local([1], "uint32")
        ones = T.alloc_local([2], "uint32")  # streams that have this block, and those of lower lanes
        there = T.meta_var(T.cast(length[0], "int32") > place[2])
        mask[0] = T.cuda.ballot_sync(T.uint32(ALL), there)
        T.ptx["popc.b32"](ones[0], mask[0])
        T.ptx["popc.b32"](ones[1], mask[0] & length[2])
        streams = T.meta_var(T.cast(ones[0], "int32"))
        mine = T.meta_var(T.cast(ones[1], "int32"))
        if there:
            j = T.meta_var(i * 4)
            T.ptx[_LOAD + ".v4.b32"](v[j], v[j + 1], v[j + 2], v[j + 3], W.ptr_to([place[0] + mine, 0]))
            T.ptx[_LOAD + ".b32"](gaps[i], W.ptr_to([place[0] + streams, mine * 4]))
        place[0] = place[0] + streams + (streams + 3) // 4
        place[2] = place[2] + 1

    @T.inline
    def enter(W, v, gaps, length, place, lane):
        place[2] = 0
        for i in T.unroll(slots):
            load(W, v, gaps, length, place, lane, i)

    @T.inline
    def look(at, starts, lengths, length, place, count, lane, u, i):
        where = T.alloc_local([1], "int32")
        length[i] = T.uint32(0)
        if u < count:
            at(u, where)
            place[i] = starts[where[0]]
            T.ptx[_LOAD + ".u8"](length[i], lengths.ptr_to([where[0], lane]))

    @T.inline
    def open(at, W, starts, lengths, v, gaps, length, place, count, lane):
        T.ptx["mov.b32"](
            length[2], (T.uint32(1) << T.cast(lane, "uint32")) - T.uint32(1)
        )  # lower lanes; not computed anew where it is used
        place[0] = 0
        place[1] = 0
        for i in T.unroll(2):
            look(at, starts, lengths, length, place, count, lane, i, i)
        enter(W, v, gaps, length, place, lane)

    @T.inline
    def walk(at, before, use, after, W, starts, lengths, v, gaps, length, place, count, lane):
        number = T.alloc_local([1], "int32")
        for u in T.serial(count):
            before(u)
            number[0] = 0
            while T.cuda.ballot_sync(T.uint32(ALL), T.cast(length[0], "int32") > number[0]) != T.uint32(0):
                for i in T.unroll(slots):
                    if T.cast(length[0], "int32") > number[0] + i:
                        use(v, i, gaps[i])
                    load(W, v, gaps, length, place, lane, i)
                number[0] = number[0] + slots
            after(u)
            place[0] = place[1]
            length[0] = length[1]
            enter(W, v, gaps, length, place, lane)
            look(at, starts, lengths, length, place, count, lane, u + 2, 1)

    return open, walk


@T.inline
def positions(gaps, p):
    """p: uint32 [3]: the positions of even entries of a block, of odd ones, and four times that of the last one, 8 bits each.

    Sums of 8 gaps stay below 256, so that one multiplication adds up four bytes."""
    p[1] = ((gaps & T.uint32(0x0F0F0F0F)) + ((gaps >> T.uint32(4)) & T.uint32(0x0F0F0F0F))) * T.uint32(0x01010101) + p[2]
    p[0] = p[1] - ((gaps >> T.uint32(4)) & T.uint32(0x0F0F0F0F))
    T.ptx["prmt.b32"](p[2], p[1], p[1], T.uint32(0x3333))


LINE = 256  # bytes of a word of fragments: one of each lane of two warps


@T.inline
def columns(p, low, at):
    """Where the entries of a block go in fragments, in bytes: `low`, of a lane, in all four bytes; of a word of 256 bytes that of the lane,
    the even input in the lower half, the odd one in the upper half.  p: as `positions` leaves it.  at: uint32 [8]."""
    word = T.alloc_local([1], "uint32")
    half = T.alloc_local([1], "uint32")
    for odd in T.unroll(2):
        word[0] = p[odd] & T.uint32((WORDS - 1) * 0x01010101)
        half[0] = ((p[odd] >> T.uint32(WORDS.bit_length() - 1)) & T.uint32(0x01010101)) * T.uint32(2) + low
        for j in T.unroll(4):  # the upper bytes are copies of the word's sign, which is 0
            T.ptx["prmt.b32"](at[2 * j + odd], word[0], half[0], T.uint32(0x8804) + T.cast(j * 0x1111, "uint32"))
