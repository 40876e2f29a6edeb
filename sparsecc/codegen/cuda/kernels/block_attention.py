"""Attention that computes some blocks of 64 or 128 queries × as many keys, on Hopper: softmax(scale · Q Kᵀ, over the blocks kept) V.

The schedule is FlashAttention-3's (Shah et al. 2024): one warp copies tiles of K and V by boxes into rings; two warpgroups of 64 queries
each multiply, with P in registers, and keep a running maximum and sum of each row. The scores of the next tile are begun before this one's
are used, so that the softmax of one runs beside the products of the other. Blocks of threads stay and take row after row of tiles.

A row of 128 queries has a list of the tiles of 128 keys of which something is kept. Where blocks are smaller, a tile has a bit for each of
its four: what a warpgroup does not need it does not multiply, and half a tile is hidden. The first tile of a list, which is the row's last,
may be masked further: behind the last token, or on the diagonal where attention is causal. A bit for each key may hide it from all queries.
A query that sees no key gets zeros.

Where tokens have other orders than the model's, the three warps beside the one that copies bring them into order: 32 rows at a time, head
after head, ahead of the products. The kernel is bound by these, so that memory has time for it. Outputs go to their places in the model's
order, as [batch, tokens, heads, head_dim].

The same warps round Q and K to int8 where that is asked for, a block at a time with one step for each (PAROAttention, Zhao et al. 2025).

On an H200, blocks of 128, TFLOP/s of what is kept: 17776 tokens × 48 heads × 64: 488 dense (cuDNN 426), 473 at a density of 0.3; 32768 × 40
× 128: 699 dense (cuDNN 611), 675 at 0.3. Slower there: warpgroups that take turns (5 % with heads of 128), rows of keys that warps gather
into the rings by `cp.async` (18 and 25 %), and orders brought about by a kernel before (6 % at 0.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Boxes, Geometry
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.pieces import rows, wgmma
from sparsecc.codegen.cuda.pieces.ring import Ring
from sparsecc.codegen.cuda.pieces.softmax import BEGIN, LOWEST, online, online_int8
from sparsecc.codegen.cuda.pieces.units import ALL
from sparsecc.codegen.cuda.script import T

TILE = 128  # queries and keys
BLOCKS = (128, 64)  # of a map
BITS = 24  # of an entry of a list, before the bits of a tile's blocks: those of the first 64 queries, then of the others
HEAD_DIMS = (64, 128)
_GROUP = 64  # queries of a warpgroup
_LOAD = "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
_PAIR = {"bfloat16": "cvt.rn.bf16x2.f32", "float16": "cvt.rn.f16x2.f32"}
_REGISTERS = {
    False: (24, 240),
    True: (40, 232),
}  # of the warps that copy, perhaps bring rows along, and of those that multiply: 168 on average
_MOST_NUMBERS = 1 << 31  # of Y, whose places are counted in 32 bits
_PROCESSORS = 132  # of an H200


@dataclass(frozen=True)
class Tiles:
    """stages: of K and of V in flight.  blocks: of the grid, one for each processor."""

    stages: int
    blocks: int = _PROCESSORS

    def shared_bytes(self, spec: BlockAttentionSpec) -> int:
        return ((1 + self.stages) * _number_bytes(spec) + self.stages * 2) * TILE * spec.head_dim + 16 * (1 + 2 * self.stages)


def space(spec: BlockAttentionSpec, arch: Arch) -> list[Tiles]:
    """Nothing where the architecture has no `wgmma`, or for other sizes of heads."""
    if arch.name != "sm_90a" or spec.head_dim not in HEAD_DIMS or spec.block not in BLOCKS or spec.heads % spec.kv_heads:
        return []
    if not (0 < spec.batch * spec.heads * spec.tokens * spec.head_dim < _MOST_NUMBERS and spec.scale > 0):
        return []  # maxima are of scores before they are scaled
    return [tiles for tiles in map(Tiles, (4, 3, 2)) if tiles.shared_bytes(spec) <= arch.shared_bytes]


def geometry(spec: BlockAttentionSpec, knobs: Tiles, arch: Arch) -> Geometry:
    maps = tuple((name, _boxes(spec, name)) for name in "QKV")
    return Geometry((knobs.blocks, 1, 1), 3 * 128, knobs.shared_bytes(spec), maps=maps)


def _number_bytes(spec: BlockAttentionSpec) -> int:
    """Of Q and K as they are multiplied."""
    return 1 if spec.int8 else 2


def words(spec: BlockAttentionSpec) -> int:
    """How many numbers of 32 bits M has for a head: whole tiles."""
    return -(-spec.tokens // TILE) * (TILE // 32)


def _shape(spec: BlockAttentionSpec, name: str) -> tuple[int, int, int, int]:
    """Of Q, K or V as they are given."""
    heads = spec.heads if name == "Q" else spec.kv_heads
    middle = (spec.tokens, heads) if name in spec.tokens_first else (heads, spec.tokens)
    return (spec.batch, *middle, spec.head_dim)


def _boxes(spec: BlockAttentionSpec, name: str) -> Boxes:
    """A tile of one head: of what is given, or of what was brought along."""
    rounded = spec.int8 and name != "V"
    made, size = spec.ordered or rounded, 1 if rounded else 2
    shape = (spec.batch, spec.heads, spec.tokens, spec.head_dim) if made else _shape(spec, name)
    row, width = spec.head_dim * size, spec.head_dim if rounded else wgmma.INPUTS
    box = (1, TILE, 1, width) if name in spec.tokens_first and not made else (1, 1, TILE, width)
    return Boxes(size, shape, (shape[1] * shape[2] * row, shape[2] * row, row), box, width * size)


def build(spec: BlockAttentionSpec, knobs: Tiles, arch: Arch):
    """PrimFunc(Q, K, V, I, L, P, M, Y, QR, KR, VR, QO, KO, VO, QS, KS, C): Q, K and V tensor maps; I int32 [rows of tiles, 4], of each its
    head, its number among the head's, where its list begins in L and how long it is; L int32 [tiles]. Where keys are hidden, M uint32
    [batch, heads or 1, words] has a bit for each key in the order of the head, 1 where it is seen. Where tokens have other orders, Q, K and
    V are of QO, KO and VO [batch, heads, tokens, head_dim], which the kernel fills from QR, KR and VR; P int32 [heads, tokens], which token
    comes to a place; C int32 [counters], zeros. Where Q and K are rounded to int8, QO and KO are, of steps QS and KS float32 [batch, heads,
    blocks], which the kernel fills. What is not needed is no parameter."""
    depth, tokens, dtype, causal, stages, int8 = spec.head_dim, spec.tokens, spec.dtype, spec.causal, knobs.stages, spec.int8
    heads, room = spec.heads, (spec.batch, spec.heads, tokens, spec.head_dim)
    (few, many), parts = _REGISTERS[rows.brings(spec)], rows.parts(spec)
    blocks, shared = -(-tokens // spec.block), spec.block  # keys that share a step
    items = spec.batch * heads * -(-tokens // TILE)
    width, narrow = wgmma.INPUTS, depth if int8 else wgmma.INPUTS  # of a row of V, and of one of Q or K
    chunk_bytes, narrow_bytes = TILE * width * 2, TILE * narrow * _number_bytes(spec)
    tile_bytes, tile_narrow_bytes = TILE * depth * 2, TILE * depth * _number_bytes(spec)
    scores, values = wgmma.instruction(TILE, dtype), wgmma.instruction(depth, dtype)
    factor, pair = spec.scale * math.log2(math.e), _PAIR[dtype]
    ragged, ordered, masked, halves = tokens % TILE != 0, spec.ordered, spec.masked, spec.block < TILE
    inner = narrow * _number_bytes(spec) // 32
    softened = online_int8(TILE, spec.block, masked) if int8 else online(TILE, factor, masked)
    bring = rows.bringer(spec)

    def tile_of(place, offset=0):
        return wgmma.int8_descriptor(place, narrow, offset) if int8 else wgmma.descriptor(place, offset)

    def corner(name, head, tile, column):
        """Of a box."""
        row = rows.brought if ordered or (int8 and name != "V") else rows.given
        return (column, *row(spec, name, head, tile * TILE)[::-1])

    @T.prim_func
    def block_attention(
        Q: T.handle("tensormap"),
        K: T.handle("tensormap"),
        V: T.handle("tensormap"),
        i_: T.handle,
        l_: T.handle,
        p_: T.handle,
        m_: T.handle,
        y_: T.handle,
        qr_: T.handle,
        kr_: T.handle,
        vr_: T.handle,
        qo_: T.handle,
        ko_: T.handle,
        vo_: T.handle,
        qs_: T.handle,
        ks_: T.handle,
        c_: T.handle,
    ):
        T.func_attr({"global_symbol": "block_attention"})
        I = T.match_buffer(i_, (items, 4), "int32", align=16)
        L = T.match_buffer(l_, (1 << 30,), "int32")
        P = T.match_buffer(p_, (heads, tokens), "int32")
        M = T.match_buffer(m_, (spec.batch, heads if ordered else 1, words(spec)), "uint32", align=16)
        Y = T.match_buffer(y_, (spec.batch, tokens, heads, depth), dtype, align=16)
        QR = T.match_buffer(qr_, _shape(spec, "Q"), dtype, align=16)
        KR = T.match_buffer(kr_, _shape(spec, "K"), dtype, align=16)
        VR = T.match_buffer(vr_, _shape(spec, "V"), dtype, align=16)
        QO = T.match_buffer(qo_, room, "int8" if int8 else dtype, align=16)
        KO = T.match_buffer(ko_, room, "int8" if int8 else dtype, align=16)
        VO = T.match_buffer(vo_, room, dtype, align=16)
        QS = T.match_buffer(qs_, (spec.batch, heads, blocks), "float32", align=16)
        KS = T.match_buffer(ks_, (spec.batch, heads, blocks), "float32", align=16)
        C = T.match_buffer(c_, (rows.counters(spec),), "int32")
        T.device_entry()
        cta = T.cta_id([knobs.blocks])
        warp = T.warp_id([12])
        lane = T.lane_id([32])
        pool = T.SMEMPool()
        q = pool.alloc((tile_narrow_bytes,), "uint8", align=1024)
        k = pool.alloc((stages * tile_narrow_bytes,), "uint8", align=1024)
        v = pool.alloc((stages * tile_bytes,), "uint8", align=1024)
        q_ring = T.meta_var(Ring(pool, 1, 8))
        k_ring = T.meta_var(Ring(pool, stages, 8))
        v_ring = T.meta_var(Ring(pool, stages, 8))
        pool.commit()
        q_ring.begin(warp * 32 + lane)
        k_ring.begin(warp * 32 + lane)
        v_ring.begin(warp * 32 + lane)
        item: T.int32 = cta
        turn: T.uint32 = T.uint32(0)  # of items
        step: T.uint32 = T.uint32(0)  # of blocks
        if warp < 4:
            T.ptx["setmaxnreg.dec.sync.aligned.u32"](few)

            @T.inline
            def copy(name, map, memory, here, head, tile, ring, now):
                wide = T.meta_var(width if name == "V" else narrow)
                part = T.meta_var(chunk_bytes if name == "V" else narrow_bytes)
                ring.claim(now)
                ring.expect(now, part * (depth // wide))
                for c in T.unroll(depth // wide):
                    place = T.meta_var(memory.ptr_to([here + c * part]))
                    T.ptx[_LOAD](place, T.address_of(map), *corner(name, head, tile, c * wide), ring.bar(now))

            if rows.brings(spec) and warp > 0:
                bring(QR, KR, VR, QO, KO, VO, QS, KS, P, C, lane)

            if warp == 0 and lane == 0:
                done = T.alloc_local([1], "int32")
                whole: T.int32 = -1  # the last head that was found in order
                while item < items:
                    head: T.int32 = I[item, 0]
                    if rows.brings(spec) and head != whole:
                        done[0] = 0
                        while done[0] < parts:
                            T.ptx["ld.acquire.gpu.global.s32"](done[0], C.ptr_to([head]))
                        T.ptx["fence.proxy.async.global"]()
                        whole = head
                    start: T.int32 = I[item, 2]
                    count: T.int32 = I[item, 3]
                    if count > 0:
                        copy("Q", Q, q, 0, head, I[item, 1], q_ring, turn)
                        turn = turn + T.uint32(1)
                    j: T.int32 = 0
                    while j < count:
                        tile: T.int32 = L[start + j] & ((1 << BITS) - 1)
                        stage = T.meta_var(T.cast(step % stages, "int32"))
                        copy("K", K, k, stage * tile_narrow_bytes, head, tile, k_ring, step)
                        copy("V", V, v, stage * tile_bytes, head, tile, v_ring, step)
                        step = step + T.uint32(1)
                        j = j + 1
                    item = item + knobs.blocks
        else:
            T.ptx["setmaxnreg.inc.sync.aligned.u32"](many)
            group: T.int32 = warp // 4 - 1
            s = T.alloc_local([TILE // 2], "float32")
            sums = T.alloc_local([TILE // 2], "uint32")  # int32, of products of int8
            o = T.alloc_local([depth // 2], "float32")
            p = T.alloc_local([TILE // 4], "uint32")
            most = T.alloc_local([2], "float32")
            weight = T.alloc_local([2], "float32")
            shrink = T.alloc_local([2], "float32")
            other = T.alloc_local([1], "float32")
            word = T.alloc_local([1], "uint32")
            entry = T.alloc_local([1], "int32")  # of the list
            coming = T.alloc_local([1], "int32")  # the tile after that
            place = T.alloc_local([1], "int32")
            bits = T.alloc_local([1], "int32")  # of this warpgroup, for the halves of the entry's tile
            going = T.alloc_local([1], "int32")
            seen = T.alloc_local([4], "uint32")  # bits of a tile's keys
            own = T.alloc_local([1], "float32")  # of a score of 1, in powers of 2, by the queries' step
            worth = T.alloc_local([2], "float32")  # with those of a tile's keys
            left: T.uint64 = tile_of(q.ptr_to([0]), group * (_GROUP * narrow * _number_bytes(spec)))
            keys: T.uint64 = tile_of(k.ptr_to([0]))
            upright: T.uint64 = wgmma.upright(v.ptr_to([0]), TILE)

            @T.inline
            def hide(i, hidden):
                if hidden:
                    s[i] = T.float32(LOWEST)

            @T.inline
            def look(at):
                """Reads an entry of the list."""
                if halves or masked:
                    entry[0] = L[at]
                if halves:
                    bits[0] = T.shift_right(entry[0], BITS + group * 2) & 3

            @T.inline
            def score(now):
                """Begins S = Q Kᵀ."""
                stage = T.meta_var(T.cast(now % stages, "int32") * tile_narrow_bytes)
                if int8:
                    for i in T.unroll(TILE // 2):
                        sums[i] = T.uint32(BEGIN)
                k_ring.wait(now)
                wgmma.begin()
                for c in T.unroll(depth // narrow):
                    for i in T.unroll(inner):
                        near = T.meta_var(wgmma.moved(left, c * narrow_bytes + i * 32))
                        far = T.meta_var(wgmma.moved(keys, stage + c * narrow_bytes + i * 32))
                        if int8:
                            wgmma.multiply_int8(sums, TILE, near, far)
                        else:
                            wgmma.multiply(scores, s, TILE, near, far, c + i > 0)
                wgmma.end()

            @T.inline
            def peek(at):
                """Reads a tile's number ahead of time: products that are begun after a read that waits for another begin late."""
                if int8:
                    coming[0] = L[at] & ((1 << BITS) - 1)

            @T.inline
            def value(head):
                """Reads what the scores of the tile that was peeked at are worth."""
                if int8:
                    tile = T.meta_var(coming[0])
                    for part in T.unroll(TILE // shared):
                        block = T.meta_var(T.min(tile * (TILE // shared) + part, blocks - 1))
                        worth[part] = own[0] * KS[head // heads, head % heads, block]

            @T.inline
            def read():
                """Once they are there."""
                if int8:
                    for i in T.unroll(TILE // 2):
                        s[i] = T.reinterpret("float32", sums[i])

            @T.inline
            def mix(now):
                """Begins O += P V."""
                stage = T.meta_var(T.cast(now % stages, "int32") * tile_bytes)
                v_ring.wait(now)
                for i in T.unroll(TILE // wgmma.STEP):
                    there = T.meta_var(wgmma.moved(upright, stage + i * (wgmma.STEP * wgmma.INPUTS * 2)))
                    wgmma.multiply_upright(values, o, depth, p, i * 4, there, True)
                wgmma.end()

            @T.inline
            def let_go(now, last):
                """Keys are read; after the last of them queries are, too."""
                k_ring.release(now, lane)
                if last:
                    q_ring.release(turn, lane)

            @T.inline
            def cover(head):
                """Hides the keys of a tile that are hidden from all queries."""
                if masked:
                    tile = T.meta_var(entry[0] & ((1 << BITS) - 1))
                    row = T.meta_var([head // heads, head % heads if ordered else 0, tile * (TILE // 32)])
                    T.ptx["ld.global.v4.b32"](seen[0], seen[1], seen[2], seen[3], M.ptr_to(row))
                    if (seen[0] & seen[1] & seen[2] & seen[3]) != T.uint32(ALL):
                        for i in T.unroll(TILE // 2):
                            bit = T.meta_var(T.cast(i // 4 % 4 * 8 + lane % 4 * 2 + i % 2, "uint32"))
                            hide(i, (T.shift_right(seen[i // 16], bit) & T.uint32(1)) == T.uint32(0))

            @T.inline
            def soften():
                """S becomes P, up to the sum by which it is divided at the end."""
                if halves and bits[0] != 3:
                    for i in T.unroll(TILE // 2):
                        hide(i, (bits[0] & (1 + i // (TILE // 4))) == 0)
                if int8:
                    softened(s, worth, most, weight, shrink)
                else:
                    softened(s, most, weight, shrink)

            @T.inline
            def settle():
                """Once nothing reads P or writes O."""
                for i in T.unroll(TILE // 4):
                    T.ptx[pair](p[i], s[i * 2 + 1], s[i * 2])
                for i in T.unroll(depth // 2):
                    o[i] = o[i] * shrink[i % 4 // 2]

            while item < items:
                own_head: T.int32 = I[item, 0]
                row: T.int32 = I[item, 1] * TILE + group * _GROUP + warp % 4 * 16 + lane // 4
                length: T.int32 = I[item, 3]
                start: T.int32 = I[item, 2]
                for h in T.unroll(2):
                    most[h] = T.float32(LOWEST)
                    weight[h] = T.float32(0)
                for i in T.unroll(depth // 2):
                    o[i] = T.float32(0)
                if length > 0:
                    q_ring.wait(turn)
                    if int8:
                        place[0] = T.min((I[item, 1] * TILE + group * _GROUP) // spec.block, blocks - 1)
                        own[0] = QS[own_head // heads, own_head % heads, place[0]] * T.float32(factor)
                j: T.int32 = 0
                bits[0] = 3
                while j < length:
                    look(start + j)
                    if bits[0] == 0:
                        k_ring.wait(step)
                        let_go(step, j == length - 1)
                        v_ring.wait(step)
                        v_ring.release(step, lane)
                    else:
                        peek(start + j)
                        score(step)
                        value(own_head)
                        peek(start + T.min(j + 1, length - 1))
                        wgmma.wait(0)
                        read()
                        let_go(step, j == length - 1)
                        if j == 0:
                            for i in T.unroll(TILE // 2):
                                key = T.meta_var((L[start] & ((1 << BITS) - 1)) * TILE + i // 4 * 8 + lane % 4 * 2 + i % 2)
                                if ragged:
                                    hide(i, key >= tokens)
                                if causal:
                                    hide(i, key > row + i % 4 // 2 * 8)
                        cover(own_head)
                        soften()
                        settle()
                        going[0] = 1
                        while going[0] != 0:  # as long as the next tile is needed, its scores are begun before these are used
                            going[0] = 0
                            if j + 1 < length:
                                look(start + j + 1)
                                if bits[0] != 0:
                                    going[0] = 1
                            if going[0] != 0:
                                score(step + T.uint32(1))
                                mix(step)
                                value(own_head)
                                peek(start + T.min(j + 2, length - 1))
                                wgmma.wait(1)
                                read()
                                let_go(step + T.uint32(1), j + 1 == length - 1)
                                cover(own_head)
                                soften()
                                wgmma.wait(0)
                                v_ring.release(step, lane)
                                settle()
                                j = j + 1
                                step = step + T.uint32(1)
                        wgmma.begin()
                        mix(step)
                        wgmma.wait(0)
                        v_ring.release(step, lane)
                    j = j + 1
                    step = step + T.uint32(1)
                if length > 0:
                    turn = turn + T.uint32(1)
                for h in T.unroll(2):
                    for n in T.unroll(2):
                        T.ptx["shfl_sync.bfly.b32"](other[0], weight[h], T.uint32(1 << n), T.uint32(0x1F), T.uint32(ALL))
                        weight[h] = weight[h] + other[0]
                    shrink[h] = T.Select(most[h] == T.float32(LOWEST), T.float32(0), T.float32(1) / weight[h])
                    if row + h * 8 < tokens:
                        place[0] = row + h * 8
                        if ordered:
                            place[0] = P[own_head % heads, row + h * 8]
                        for n in T.unroll(depth // 8):
                            T.ptx[pair](word[0], o[n * 4 + h * 2 + 1] * shrink[h], o[n * 4 + h * 2] * shrink[h])
                            T.ptx["st.global.b32"](Y.ptr_to([own_head // heads, place[0], own_head % heads, n * 8 + lane % 4 * 2]), word[0])
                item = item + knobs.blocks

    return block_attention
