"""Attention of few queries to many keys, as a step of decoding has it: bound by the bytes of keys and values.

    Y[r] = Σ_j softmax_j(scale · Q[r] · K[j]) V[j]        over the keys j that the mask lets a query see

The queries of one head of keys (those of all heads that share it, and of all new tokens) are the rows of one tile of 16. The blocks of a
cluster and their warps share out the keys, 16 at a time; each warp has a ring of its own that its lanes fill, and keeps a running maximum
and sum of each row (online softmax, Milakov and Gimelshein 2018; split over the keys: Flash-Decoding, Dao et al. 2023). At the end the
warps' sums are added in shared memory, and those of the cluster's blocks after them.

Keys that no query sees are not read: a warp looks at the mask first. A row that sees nothing gives zeros, as torch's math does; NaN stays.
The next kernel may start at once; its weights do not depend on this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import AttentionSpec
from sparsecc.codegen.cuda.pieces.units import ALL
from sparsecc.codegen.cuda.script import T

ROWS = KEYS = 16  # of a tile of queries, and of keys
HEAD_DIMS = (64, 128)
_MULTIPLY = "mma.sync.aligned.m16n8k16.row.col.f32.{0}.{0}.f32"
_PACK = "cvt.rn.{0}x2.f32"
_NAMES = {"bfloat16": "bf16", "float16": "f16"}
_PROCESSORS = 132  # of an H200
_MOST_NUMBERS = 1 << 31  # of K, whose places are counted in 32 bits
_LOWEST = -3.0e38  # below every score; a difference of two of them is finite


@dataclass(frozen=True)
class Split:
    """blocks: of a cluster, which share out the keys.  warps: of a block, which share out its keys.  stages: of 16 keys and values in
    flight for each warp."""

    blocks: int
    warps: int
    stages: int

    @property
    def threads(self) -> int:
        return self.warps * 32

    def ring_bytes(self, spec: AttentionSpec) -> int:
        return self.warps * self.stages * 2 * KEYS * _pitch(spec)

    def shared_bytes(self, spec: AttentionSpec) -> int:
        return max(self.ring_bytes(spec), (self.warps + 1) * _sum_bytes(spec))


def _pitch(spec: AttentionSpec) -> int:
    """Bytes from key to key, so that eight lanes read from different banks."""
    return spec.head_dim * 2 + 16


def _sum_bytes(spec: AttentionSpec) -> int:
    """Of the sums of all rows of a warp, each with its maximum and its sum of weights."""
    return ROWS * (spec.head_dim + 4) * 4


def space(spec: AttentionSpec, arch: Arch) -> list[Split]:
    """Nothing for shapes that it does not take."""
    if spec.head_dim not in HEAD_DIMS or spec.heads % spec.kv_heads or not 0 < spec.rows <= ROWS or spec.keys < 1 or spec.batch < 1:
        return []
    if spec.batch * spec.kv_heads * spec.keys * spec.head_dim >= _MOST_NUMBERS:
        return []
    heads, units = spec.batch * spec.kv_heads, -(-spec.keys // KEYS)
    found = []
    for blocks in (8, 4, 2, 1) if arch.bulk_copies else (1,):  # clusters came with bulk copies
        for warps in (8, 4):
            each = -(-units // (blocks * warps))
            for stages in sorted({min(4, each), min(2, each)}, reverse=True):
                knobs = Split(blocks, warps, stages)
                if knobs.shared_bytes(spec) <= arch.shared_bytes and blocks * warps <= max(4, units):
                    found.append(knobs)
    # as many blocks as there are processors, and no more
    return sorted(found, key=lambda knobs: abs(math.log2(heads * knobs.blocks / _PROCESSORS)))


def geometry(spec: AttentionSpec, knobs: Split, arch: Arch) -> Geometry:
    return Geometry((spec.batch * spec.kv_heads * knobs.blocks, 1, 1), knobs.threads, knobs.shared_bytes(spec), cluster=knobs.blocks)


def build(spec: AttentionSpec, knobs: Split, arch: Arch):
    """PrimFunc(Q, K, V, M, Y): Q and Y [batch · kv_heads, rows, head_dim], K and V [batch · kv_heads, keys, head_dim], M uint8 [queries,
    keys], which is no parameter where there is no mask."""
    depth, keys, rows, queries, dtype, masked = spec.head_dim, spec.keys, spec.rows, spec.queries, spec.dtype, spec.masked
    heads, blocks, warps, stages = spec.batch * spec.kv_heads, knobs.blocks, knobs.warps, knobs.stages
    pitch, units, threads = _pitch(spec), -(-keys // KEYS), knobs.threads
    stage_bytes, row_floats = 2 * KEYS * pitch, depth + 4
    multiply, pack = _MULTIPLY.format(_NAMES[dtype]), _PACK.format(_NAMES[dtype])
    chunks = KEYS * depth // 8 // 32  # of 16 bytes, of a lane
    steps, columns = depth // 16, depth // 8
    factor = spec.scale * math.log2(math.e)  # powers of two are what there are instructions for
    tall = rows > 8  # a lane has two rows
    here_rows = 2 if tall else 1
    whole = keys % KEYS == 0

    @T.prim_func
    def decode_attention(q: T.handle, k: T.handle, v: T.handle, m: T.handle, y: T.handle):
        T.func_attr({"global_symbol": "decode_attention"})
        Q = T.match_buffer(q, (heads, rows, depth), dtype, align=16)
        K = T.match_buffer(k, (heads, keys, depth), dtype, align=16)
        V = T.match_buffer(v, (heads, keys, depth), dtype, align=16)
        M = T.match_buffer(m, (queries, keys), "uint8")
        Y = T.match_buffer(y, (heads, rows, depth), dtype, align=16)
        T.device_entry()
        cta = T.cta_id([heads * blocks])
        warp = T.warp_id([warps])
        lane = T.lane_id([32])
        thread = T.meta_var(warp * 32 + lane)
        head = T.meta_var(cta // blocks)
        rank = T.meta_var(cta % blocks)
        pool = T.SMEMPool()
        memory = pool.alloc((knobs.shared_bytes(spec),), "uint8", align=128)
        pool.commit()
        own = T.meta_var(rank * warps + warp)  # of all warps of a head
        a = T.alloc_local([steps * 4], "uint32")  # queries
        b = T.alloc_local([4], "uint32")
        s = T.alloc_local([8], "float32")
        p = T.alloc_local([4], "uint32")
        total = T.alloc_local([columns * 4], "float32")
        most = T.alloc_local([2], "float32")
        weight = T.alloc_local([2], "float32")
        new = T.alloc_local([2], "float32")
        shrink = T.alloc_local([2], "float32")
        other = T.alloc_local([1], "float32")
        seen = T.alloc_local([1], "uint32")
        some = T.alloc_local([1], "uint32")
        next_ = T.alloc_local([1], "int32")  # the next unit to copy
        ahead = T.alloc_local([stages], "int32")  # units in flight, `units` for none
        address = T.alloc_local([1], "uint32")
        remote = T.alloc_local([4], "float32")
        scale = T.alloc_local([1], "float32")
        sums = T.alloc_local([2], "float32")
        if arch.bulk_copies:
            T.ptx.griddepcontrol.launch_dependents()

        @T.inline
        def look():
            """Goes on to the next unit of this warp of which a query sees a key."""
            if masked:
                seen[0] = T.uint32(0)
                while T.And(seen[0] == T.uint32(0), next_[0] < units):
                    some[0] = T.uint32(0)
                    for n in T.serial(queries):
                        key = T.meta_var(next_[0] * KEYS + lane % KEYS)
                        if key < keys:
                            some[0] = some[0] | T.cast(M[n, key], "uint32")
                    seen[0] = T.cuda.ballot_sync(T.uint32(ALL), some[0] != T.uint32(0))
                    if seen[0] == T.uint32(0):
                        next_[0] = next_[0] + blocks * warps

        @T.inline
        def fill(slot):
            look()
            ahead[slot] = next_[0]
            if next_[0] < units:
                for i in T.unroll(chunks):
                    row = T.meta_var((i * 32 + lane) // (depth // 8))
                    column = T.meta_var((i * 32 + lane) % (depth // 8) * 8)
                    key = T.meta_var(next_[0] * KEYS + row)
                    at = T.meta_var((warp * stages + slot) * stage_bytes + row * pitch + column * 2)
                    if whole:
                        T.ptx["cp.async.cg.shared.global"](memory.ptr_to([at]), K.ptr_to([head, key, column]), 16)
                        T.ptx["cp.async.cg.shared.global"](memory.ptr_to([at + KEYS * pitch]), V.ptr_to([head, key, column]), 16)
                    else:  # what is missing is zero
                        size = T.meta_var(T.Select(key < keys, T.uint32(16), T.uint32(0)))
                        there = T.meta_var(T.min(key, keys - 1))
                        T.ptx["cp.async.cg.shared.global"](memory.ptr_to([at]), K.ptr_to([head, there, column]), 16, size)
                        T.ptx["cp.async.cg.shared.global"](memory.ptr_to([at + KEYS * pitch]), V.ptr_to([head, there, column]), 16, size)
                next_[0] = next_[0] + blocks * warps
            T.ptx["cp.async.commit_group"]()

        @T.inline
        def hide(i, hidden):
            if hidden:
                s[i] = T.float32(_LOWEST)

        @T.inline
        def work(slot):
            unit = T.meta_var(ahead[slot])
            at = T.meta_var((warp * stages + slot) * stage_bytes)
            for i in T.unroll(8):
                s[i] = T.float32(0)
            for j in T.unroll(2):
                for k in T.unroll(steps // 2):
                    place = T.meta_var(at + (j * 8 + lane % 8) * pitch + (k * 32 + lane // 8 * 8) * 2)
                    T.ptx["ldmatrix.sync.aligned.m8n8.x4.shared.b16"](b[0], b[1], b[2], b[3], memory.ptr_to([place]))
                    for half in T.unroll(2):
                        i = T.meta_var((k * 2 + half) * 4)
                        T.ptx[multiply](
                            s[j * 4], s[j * 4 + 1], s[j * 4 + 2], s[j * 4 + 3],
                            a[i], a[i + 1], a[i + 2], a[i + 3],
                            b[half * 2], b[half * 2 + 1],
                            s[j * 4], s[j * 4 + 1], s[j * 4 + 2], s[j * 4 + 3],
                        )  # fmt: skip
            for i in T.unroll(8):
                row = T.meta_var(lane // 4 + i % 4 // 2 * 8)
                key = T.meta_var(unit * KEYS + i // 4 * 8 + lane % 4 * 2 + i % 2)
                s[i] = s[i] * T.float32(factor)
                if masked:
                    hide(i, T.And(key < keys, M[row % queries, key] == T.uint8(0)))
                if not whole:
                    hide(i, key >= keys)
            for h in T.unroll(2):
                new[h] = T.max(T.max(s[h * 2], s[h * 2 + 1]), T.max(s[4 + h * 2], s[4 + h * 2 + 1]))
                for n in T.unroll(2):
                    T.ptx["shfl_sync.bfly.b32"](other[0], new[h], T.uint32(1 << n), T.uint32(0x1F), T.uint32(ALL))
                    new[h] = T.max(new[h], other[0])
                new[h] = T.max(new[h], most[h])
                shrink[h] = T.exp2(most[h] - new[h])
                most[h] = new[h]
                weight[h] = weight[h] * shrink[h]
            for i in T.unroll(8):
                h = T.meta_var(i % 4 // 2)
                if s[i] == T.float32(_LOWEST):
                    s[i] = T.float32(0)
                else:
                    s[i] = T.exp2(s[i] - most[h])
                weight[h] = weight[h] + s[i]
            for i in T.unroll(4):
                T.ptx[pack](p[i], s[i * 2 + 1], s[i * 2])
            for i in T.unroll(columns * 4):
                total[i] = total[i] * shrink[i % 4 // 2]
            for n in T.unroll(columns // 2):
                place = T.meta_var(at + KEYS * pitch + (lane // 8 % 2 * 8 + lane % 8) * pitch + (n * 16 + lane // 16 * 8) * 2)
                T.ptx["ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"](b[0], b[1], b[2], b[3], memory.ptr_to([place]))
                for half in T.unroll(2):
                    i = T.meta_var((n * 2 + half) * 4)
                    T.ptx[multiply](
                        total[i], total[i + 1], total[i + 2], total[i + 3],
                        p[0], p[1], p[2], p[3],
                        b[half * 2], b[half * 2 + 1],
                        total[i], total[i + 1], total[i + 2], total[i + 3],
                    )  # fmt: skip

        next_[0] = own
        for i in T.unroll(stages):
            fill(i)
        for k in T.unroll(steps):
            for i in T.unroll(4):
                row = T.meta_var(lane // 4 + i % 2 * 8)
                a[k * 4 + i] = T.uint32(0)
                if row < rows:
                    T.ptx["ld.global.b32"](a[k * 4 + i], Q.ptr_to([head, row, k * 16 + i // 2 * 8 + lane % 4 * 2]))
        for i in T.unroll(columns * 4):
            total[i] = T.float32(0)
        for h in T.unroll(2):
            most[h] = T.float32(_LOWEST)
            weight[h] = T.float32(0)
        while ahead[0] < units:
            for slot in T.unroll(stages):
                T.ptx["cp.async.wait_group"](stages - 1)
                T.cuda.warp_sync()
                if ahead[slot] < units:
                    work(slot)
                T.cuda.warp_sync()
                fill(slot)
        T.ptx["cp.async.wait_group"](0)
        T.cuda.cta_sync()
        for h in T.unroll(here_rows):
            for n in T.unroll(2):
                T.ptx["shfl_sync.bfly.b32"](other[0], weight[h], T.uint32(1 << n), T.uint32(0x1F), T.uint32(ALL))
                weight[h] = weight[h] + other[0]
            row = T.meta_var(lane // 4 + h * 8)
            at = T.meta_var((warp * ROWS + row) * row_floats * 4)
            for n in T.unroll(columns):
                T.ptx["st.shared.v2.f32"](memory.ptr_to([at + (n * 8 + lane % 4 * 2) * 4]), total[n * 4 + h * 2], total[n * 4 + h * 2 + 1])
            if lane % 4 == 0:
                T.ptx["st.shared.v2.f32"](memory.ptr_to([at + depth * 4]), most[h], weight[h])
        T.cuda.cta_sync()
        # The block's sums, of all its warps, behind them.
        quads = T.meta_var(depth // 4)
        for n in T.serial(-(-rows * (depth // 4) // threads)):
            number = T.meta_var(n * threads + thread)
            if number < rows * quads:
                row = T.meta_var(number // quads)
                column = T.meta_var(number % quads * 4)
                new[0] = T.float32(_LOWEST)
                for w in T.unroll(warps):
                    T.ptx["ld.shared.f32"](other[0], memory.ptr_to([((w * ROWS + row) * row_floats + depth) * 4]))
                    new[0] = T.max(new[0], other[0])
                weight[0] = T.float32(0)
                for i in T.unroll(4):
                    s[i] = T.float32(0)
                for w in T.unroll(warps):
                    at = T.meta_var((w * ROWS + row) * row_floats * 4)
                    T.ptx["ld.shared.v2.f32"](sums[0], sums[1], memory.ptr_to([at + depth * 4]))
                    scale[0] = T.exp2(sums[0] - new[0])
                    weight[0] = weight[0] + scale[0] * sums[1]
                    T.ptx["ld.shared.v4.f32"](remote[0], remote[1], remote[2], remote[3], memory.ptr_to([at + column * 4]))
                    for i in T.unroll(4):
                        s[i] = s[i] + scale[0] * remote[i]
                if blocks == 1:
                    for i in T.unroll(4):
                        Y[head, row, column + i] = T.cast(T.Select(weight[0] == T.float32(0), T.float32(0), s[i] / weight[0]), dtype)
                else:
                    at = T.meta_var((warps * ROWS + row) * row_floats * 4)
                    T.ptx["st.shared.v4.f32"](memory.ptr_to([at + column * 4]), s[0], s[1], s[2], s[3])
                    if column == 0:
                        T.ptx["st.shared.v2.f32"](memory.ptr_to([at + depth * 4]), new[0], weight[0])
        if blocks > 1:
            T.cuda.cluster_sync()
            share = T.meta_var(-(-rows * (depth // 4) // blocks))
            for n in T.serial(-(-share // threads)):
                number = T.meta_var(rank * share + n * threads + thread)
                if T.And(n * threads + thread < share, number < rows * quads):
                    row = T.meta_var(number // quads)
                    column = T.meta_var(number % quads * 4)
                    at = T.meta_var(T.cuda.cvta_generic_to_shared(memory.ptr_to([(warps * ROWS + row) * row_floats * 4])))
                    new[0] = T.float32(_LOWEST)
                    for w in T.unroll(blocks):
                        T.ptx["mapa.shared::cluster.u32"](address[0], at, T.uint32(w))
                        T.ptx["ld.shared::cluster.f32"](other[0], address[0] + T.uint32(depth * 4))
                        new[0] = T.max(new[0], other[0])
                    weight[0] = T.float32(0)
                    for i in T.unroll(4):
                        s[i] = T.float32(0)
                    for w in T.unroll(blocks):
                        T.ptx["mapa.shared::cluster.u32"](address[0], at, T.uint32(w))
                        T.ptx["ld.shared::cluster.v2.f32"](sums[0], sums[1], address[0] + T.uint32(depth * 4))
                        scale[0] = T.exp2(sums[0] - new[0])
                        weight[0] = weight[0] + scale[0] * sums[1]
                        address[0] = address[0] + T.cast(column * 4, "uint32")
                        T.ptx["ld.shared::cluster.v4.f32"](remote[0], remote[1], remote[2], remote[3], address[0])
                        for i in T.unroll(4):
                            s[i] = s[i] + scale[0] * remote[i]
                    for i in T.unroll(4):
                        Y[head, row, column + i] = T.cast(T.Select(weight[0] == T.float32(0), T.float32(0), s[i] / weight[0]), dtype)
            T.cuda.cluster_sync()  # what others read stays

    return decode_attention
