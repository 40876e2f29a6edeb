"""Integer weights in groups times few tokens, in bfloat16 or float16: dense and 2:4, of 4 or 8 bits, bound by the bytes of the weights.

    Y[t, o] = activation(bias[o] + Σ_g scale[o, g] Σ_{i in g} (W[o, i] - zero[o, g]) · X[t, i]) + residual[t, o]

A block has several tiles of 16 rows, so that X, which comes through the L2 cache as the weights do, is read by as few blocks as there are
multiprocessors. Its warps share out the depth: each has a ring of its own, which its lanes fill with pieces (see `pack_groups.py`) and no
other warp waits for, and multiplies them by numbers of X that it holds for all tiles of a run. Bulk copies took 30 instructions a piece, in
which the warp stood still; ordinary copies take 6 (14336x4096, 8 tokens, 7 tiles: 14.9 and 11.7 µs without overlap of kernels).

Weights do not depend on the kernel before, so that the ring is filled before `griddepcontrol.wait`. The next kernel starts when this one
has asked for its last pieces: its rings then fill while this one ends, and no earlier, where they would only delay it (11.4 and 9.9 µs).

Integers become floats exactly: 4 bits in the mantissa of 128 (bfloat16) or 1024 (float16), less that and the zero point. The sums of a
group are multiplied by its scale in float32. At the end the slices' sums are added in shared memory, where the rings were, or with those of
the other blocks of a cluster.

More than 16 tokens are parts of 16, each a warp of every slice, which share the slice's ring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import Kernel, LinearSpec, Part, Weights
from sparsecc.codegen.cuda.pack_groups import FORMS, PIECE, TILE, form, pack, pieces, tiles, unpack
from sparsecc.codegen.cuda.pieces.epilogue import result, tile_row
from sparsecc.codegen.cuda.script import T

TOKENS = (8, 16, 32, 64)
_DENSE = "mma.sync.aligned.m16n8k16.row.col.f32.{0}.{0}.f32"
_SPARSE = "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{0}.{0}.f32"
_NAMES = {"bfloat16": "bf16", "float16": "f16"}
_MAGIC = {"bfloat16": 0x43004300, "float16": 0x64006400}  # two halves whose mantissa counts in ones: 128, 1024
_MINUS_ONE = {"bfloat16": 0xBF80BF80, "float16": 0xBC00BC00}
_PROCESSORS = 132  # of an H200
_TILES = 7  # of a block, at most
_CHUNK = 32  # inputs that four lanes read of a token at once


@dataclass(frozen=True)
class Ring:
    """blocks: that share out the tiles of 16 rows evenly.  slices: of the depth, that warps have side by side.  stages: runs of a block's
    tiles, and of X, in flight for each.  split: blocks of a cluster, which share out the depth before their warps do."""

    blocks: int
    slices: int
    stages: int
    split: int = 1


@dataclass(frozen=True)
class _Plan:
    """Sizes that follow from a spec and knobs."""

    spec: LinearSpec
    knobs: Ring

    @property
    def tiles(self) -> int:
        """Of a block, at most."""
        return -(-tiles(self.spec) // self.knobs.blocks)

    @property
    def wide(self) -> int:
        """Instructions side by side for the tokens of a warp, 8 each."""
        return min(2, self.spec.tokens // 8)

    @property
    def parts(self) -> int:
        """Warps that share a slice."""
        return self.spec.tokens // (8 * self.wide)

    @property
    def threads(self) -> int:
        return 32 * self.parts * self.knobs.slices

    @property
    def ring_bytes(self) -> int:
        return self.knobs.slices * self.knobs.stages * self.tiles * form(self.spec.form).piece_bytes

    @property
    def x_bytes(self) -> int:
        """Of all runs in flight of a warp."""
        return self.knobs.stages * self.wide * 8 * PIECE * 2

    @property
    def pitch(self) -> int:
        """Floats between the sums of two tokens, so that the lanes of a warp write to different banks."""
        return self.tiles * TILE + 4

    @property
    def most_tiles(self) -> int:
        """As many as a lane has registers for the sums of."""
        return _TILES if self.parts == 1 else 3

    @property
    def shared_bytes(self) -> int:
        used = self.ring_bytes + self.knobs.slices * self.parts * self.x_bytes
        return max(used, self.knobs.slices * self.spec.tokens * self.pitch * 4)

    def blocks(self, arch: Arch) -> int:
        """Of a multiprocessor: this kernel's and the next one's, where two fit."""
        return 2 if self.threads <= 256 and 2 * (self.shared_bytes + 1024) <= arch.shared_bytes else 1


def space(spec: LinearSpec, arch: Arch) -> list[Ring]:
    """Nothing where a lane cannot read 8 inputs of a token at once."""
    return sorted(_space(spec, arch), key=lambda knobs: _guess(spec, knobs, arch)) if spec.depth % 8 == 0 else []


def _space(spec: LinearSpec, arch: Arch) -> Iterator[Ring]:
    even = [-(-tiles(spec) // count) for count in range(1, min(_TILES, tiles(spec)) + 1)]
    for split in (1, 2) if arch.bulk_copies else (1,):  # clusters came with bulk copies
        for blocks in dict.fromkeys([*(n for n in (_PROCESSORS // split, 2 * _PROCESSORS // split) if n <= tiles(spec)), *even]):
            for slices in (4, 8, 16):
                for stages in (1, 2, 3, 4):
                    plan = _Plan(spec, ring := Ring(blocks, slices, stages, split))
                    fits = plan.threads <= 512 and plan.shared_bytes <= arch.shared_bytes
                    runs = -(-pieces(spec) // (slices * split))
                    if fits and plan.tiles <= plan.most_tiles and stages <= runs and stages * plan.tiles >= min(2, plan.parts):
                        yield ring


def _guess(spec: LinearSpec, knobs: Ring, arch: Arch) -> float:
    """Microseconds, by what an H200 showed: 4.1 TB/s for weights, 8 TB/s for what all blocks read of X, 2 µs from the end of a kernel to
    the first product of the next one, 1 µs for a cluster, more where a multiprocessor has few warps or pieces in flight, or no room for
    two blocks."""
    plan = _Plan(spec, knobs)
    waves = knobs.blocks * knobs.split / _PROCESSORS
    here = max(1, waves)  # blocks of a multiprocessor
    idle = max(math.ceil(waves) / waves if waves > 1 else 0.8 / waves, 1)
    idle *= max(1, 8 / (here * plan.threads // 32)) * max(1, 50e3 / (here * plan.ring_bytes)) ** 0.5
    weights, x = tiles(spec) * pieces(spec) * form(spec.form).piece_bytes, knobs.blocks * spec.depth * spec.tokens * 2
    return weights / 4.1e6 * idle + x / 8e6 + 2 + (knobs.split > 1) + 0.7 * (2 - plan.blocks(arch)) + plan.shared_bytes / 1e7


def parts(spec: LinearSpec) -> dict[str, Part]:
    return {"W": Part("uint8", (tiles(spec), pieces(spec), form(spec.form).piece_bytes))}


def prepare(weights: Weights, spec: LinearSpec) -> dict[str, object]:
    return {"W": pack(weights, spec)}


def _unpack(parts, spec: LinearSpec) -> Weights:
    return unpack(parts["W"], spec)


def geometry(spec: LinearSpec, knobs: Ring, arch: Arch) -> Geometry:
    plan = _Plan(spec, knobs)
    return Geometry((knobs.blocks * knobs.split, 1, 1), plan.threads, plan.shared_bytes, knobs.split, arch.bulk_copies)


def build(spec: LinearSpec, knobs: Ring, arch: Arch):
    """PrimFunc(W, X, B, R, Y, tokens): W as `prepare` has it."""
    plan, kind = _Plan(spec, knobs), form(spec.form)
    count, slices, stages, split = plan.tiles, knobs.slices, knobs.stages, knobs.split
    wide, parts, threads, pitch = plan.wide, plan.parts, plan.threads, plan.pitch
    all_tiles, all_pieces, piece = tiles(spec), pieces(spec), kind.piece_bytes
    blocks = knobs.blocks
    groups, words, most = kind.groups, kind.words, spec.tokens
    per_group = kind.steps // groups  # instructions of a group
    per_quad = kind.steps * 4 // words  # and of four words of numbers
    chains = 2 if groups == 1 and wide == 1 else 1  # sums of a group side by side, so that an instruction waits less for the one before
    rows, outputs, depth, dtype = spec.rows, spec.outputs, spec.depth, spec.dtype
    magic, minus_one = _MAGIC[dtype], _MINUS_ONE[dtype]
    multiply = (_SPARSE if kind.sparse else _DENSE).format(_NAMES[dtype])
    subtract = f"fma.rn.{_NAMES[dtype]}x2"
    masks = (0x000F000F, 0) if kind.bits == 4 else (0x007F007F, 0x00800080) if dtype == "bfloat16" else (0x00FF00FF, 0)
    sharing = parts > 1
    both = 2 if kind.sparse else 1  # of two neighbouring lanes' inputs, those that a lane reads
    chunks = piece // 16  # that lanes copy
    flying = stages * count - (2 if sharing else 1)  # groups of copies behind the piece to be multiplied
    width = slices * split  # pieces side by side
    outs = count * (TILE // 2 if spec.gated else TILE)
    factors = 2 if spec.gated else 1
    rounds = -(-outs * most // (threads * split))  # outputs of a thread
    rest = outs * most % (threads * split) != 0
    ragged = depth % PIECE != 0
    uneven = all_tiles % blocks != 0  # some blocks have a tile less

    launch = ["tirx.use_programtic_dependent_launch"] if arch.bulk_copies else []

    @T.prim_func
    def group_decode(w: T.handle, x: T.handle, b: T.handle, r: T.handle, y: T.handle, tokens: T.int32):
        T.func_attr({"global_symbol": "group_decode", "tirx.kernel_launch_params": launch})
        W = T.match_buffer(w, (all_tiles * all_pieces * piece,), "uint8", align=16)
        X = T.match_buffer(x, (tokens, depth), dtype, align=16)
        B = T.match_buffer(b, (rows,), dtype)
        R = T.match_buffer(r, (tokens, outputs), dtype)
        Y = T.match_buffer(y, (tokens, outputs), dtype)
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": plan.blocks(arch)})
        cta = T.cta_id([blocks * split])
        warp = T.warp_id([threads // 32])
        lane = T.lane_id([32])
        thread = T.meta_var(warp * 32 + lane)
        block = T.meta_var(cta // split)
        rank = T.meta_var(cta % split)
        pool = T.SMEMPool()
        memory = pool.alloc((plan.shared_bytes,), "uint8", align=128)
        pool.commit()
        part = T.meta_var(warp % parts)
        slice_ = T.meta_var(warp // parts)
        top = T.meta_var(block * all_tiles // blocks if uneven else block * count)
        own = T.meta_var((block + 1) * all_tiles // blocks - top)
        ring = T.meta_var(slice_ * (stages * count * piece))
        x_at = T.meta_var(plan.ring_bytes + warp * plan.x_bytes + lane * 16)
        sums = T.alloc_local([count * wide * 4], "float32")
        f = T.alloc_local([wide * 16], "uint32")  # X of a run
        first = T.alloc_local([wide * both * 16], "uint32")
        h = T.alloc_local([8], "uint32")
        v = T.alloc_local([words], "uint32")  # numbers of a piece
        e = T.alloc_local([2], "uint32")
        c = T.alloc_local([4], "uint32")  # scales
        z = T.alloc_local([2], "uint32")  # zero points
        s = T.alloc_local([groups * chains * wide * 4], "float32")
        a = T.alloc_local([kind.steps * 4], "uint32")
        m = T.alloc_local([kind.steps * 4], "uint32")
        scale = T.alloc_local([groups * 2], "float32")
        term = T.alloc_local([rounds * width * factors], "float32")
        total = T.alloc_local([2], "float32")
        address = T.alloc_local([1], "uint32")
        policy = T.alloc_local([1], "uint64")
        runs = T.alloc_local([1], "int32")
        here = T.alloc_local([1], "int64")  # of W, the lane's part of the first tile's next piece to copy
        mask = T.alloc_local([2], "uint32")
        T.ptx["createpolicy.fractional.L2::evict_first.b64"](policy[0], T.float32(1.0))
        # `lop3` takes one constant: a mask that ptxas could guess would be moved to a register again each time, 3 more instructions of 12.
        mask[0] = T.uint32(masks[0]) ^ T.cast(tokens, "uint32") >> T.uint32(31)
        mask[1] = T.uint32(masks[1]) ^ T.cast(tokens, "uint32") >> T.uint32(31)
        here[0] = T.cast((top * all_pieces + rank * slices + slice_) * piece + (part * 32 + lane) * 16, "int64")
        runs[0] = (all_pieces - rank * slices - slice_ + width - 1) // width

        @T.inline
        def fill(stage, t):
            for i in T.unroll(-(-chunks // (32 * parts))):
                if (i * parts + part) * 32 + lane < chunks:
                    T.ptx["cp.async.cg.shared.global.L2::cache_hint"](
                        memory.ptr_to([ring + (stage * count + t) * piece + ((i * parts + part) * 32 + lane) * 16]),
                        W.ptr_to([here[0] + T.cast(t * (all_pieces * piece) + i * (parts * 512), "int64")]),
                        16,
                        policy[0],
                    )

        @T.inline
        def fetch(run):
            """Starts to copy X of a run: zeros where there is no token or no input."""
            if run < runs[0]:
                for n in T.unroll(wide):
                    for k in T.unroll(4):
                        token = T.meta_var((part * wide + n) * 8 + lane // 4)
                        column = T.meta_var((run * width + rank * slices + slice_) * PIECE + k * _CHUNK + lane % 4 * 8)
                        there = T.meta_var(T.And(token < tokens, column < depth) if ragged else token < tokens)
                        T.ptx["cp.async.cg.shared.global"](
                            memory.ptr_to([x_at + ((run % stages * wide + n) * 4 + k) * 512]),
                            X.ptr_to([T.if_then_else(there, token, 0), T.if_then_else(there, column, 0)]),
                            16,
                            T.if_then_else(there, T.uint32(16), T.uint32(0)),
                        )

        @T.inline
        def halved(i, from_, j):
            """X as the lane multiplies it: with 2:4 an even lane takes the first halves of four quartets, an odd one the second."""
            for n in T.unroll(4):
                if kind.sparse:
                    f[i + n] = T.if_then_else(lane % 2 == 0, from_[j + n * 2], from_[j + n * 2 + 1])
                else:
                    f[i + n] = from_[j + n]

        @T.inline
        def arrived():
            """The next piece, to all lanes that multiply it."""
            T.ptx["cp.async.wait_group"](flying)
            if sharing:
                T.ptx.bar.sync(T.cast(slice_ + 1, "uint32"), T.uint32(32 * parts))
            else:
                T.cuda.warp_sync()

        @T.inline
        def number(k, g, i):
            """The floats of register i of an instruction."""
            j = T.meta_var(k * 4 + i)
            if kind.bits == 4:
                m[j] = v[k] >> T.uint32(4 * i)
                T.ptx["lop3.b32"](a[j], m[j], mask[0], T.uint32(magic), 0xEA)
                if kind.zeros:
                    T.ptx["prmt.b32"](m[j], z[g // 2], T.uint32(magic >> 8 & 0xFF), T.uint32(0x4040 + 0x0202 * (g % 2) + 0x0101 * (i % 2)))
                else:
                    m[j] = T.uint32(magic + 0x00080008)
            elif dtype == "bfloat16":  # 7 bits and the sign: 128 + bits less 128 or 256
                m[j] = v[k * 2 + i // 2] >> T.uint32(i % 2 * 8)
                T.ptx["lop3.b32"](a[j], m[j], mask[0], T.uint32(magic), 0xEA)
                T.ptx["lop3.b32"](m[j], m[j], mask[1], T.uint32(magic), 0xEA)
            else:
                m[j] = v[k * 2 + i // 2] >> T.uint32(i % 2 * 8)
                T.ptx["lop3.b32"](a[j], m[j], mask[0], T.uint32(magic + 0x00800080), 0x6A)
                m[j] = T.uint32(magic + 0x00800080)
            T.ptx[subtract](a[j], m[j], T.uint32(minus_one), a[j])

        @T.inline
        def scaled(g, t):
            """Adds the sums of a group to those of a tile."""
            if dtype == "bfloat16":
                scale[g * 2] = T.reinterpret("float32", c[g] << T.uint32(16))
                scale[g * 2 + 1] = T.reinterpret("float32", c[g] & T.uint32(0xFFFF0000))
            else:
                scale[g * 2] = T.cast(T.reinterpret("float16", T.cast(c[g] & T.uint32(0xFFFF), "uint16")), "float32")
                scale[g * 2 + 1] = T.cast(T.reinterpret("float16", T.cast(c[g] >> T.uint32(16), "uint16")), "float32")
            for i in T.unroll(wide * 4):
                j = T.meta_var(t * wide * 4 + i)
                k = T.meta_var(g * chains * wide * 4 + i)
                if chains == 2:
                    sums[j] = sums[j] + scale[g * 2 + i % 4 // 2] * (s[k] + s[k + wide * 4])
                else:
                    sums[j] = sums[j] + scale[g * 2 + i % 4 // 2] * s[k]

        @T.inline
        def add_dense(i, j, d):
            T.ptx[multiply](
                s[i], s[i + 1], s[i + 2], s[i + 3],
                a[j], a[j + 1], a[j + 2], a[j + 3],
                f[d], f[d + 1],
                s[i], s[i + 1], s[i + 2], s[i + 3],
            )  # fmt: skip

        @T.inline
        def add_sparse(i, j, d, k, selector):
            T.ptx[multiply](
                s[i], s[i + 1], s[i + 2], s[i + 3],
                a[j], a[j + 1], a[j + 2], a[j + 3],
                f[d], f[d + 1], f[d + 2], f[d + 3],
                s[i], s[i + 1], s[i + 2], s[i + 3],
                e[k], selector,
            )  # fmt: skip

        for stage in T.unroll(stages):
            for t in T.unroll(count):
                if stage < runs[0]:
                    fill(stage, t)
                T.ptx["cp.async.commit_group"]()
            here[0] = here[0] + T.int64(width * piece)
        if arch.bulk_copies:
            T.ptx.griddepcontrol.wait()
        for i in T.unroll(wide * both * 16):
            first[i] = T.uint32(0)
        for n in T.unroll(wide):
            for k in T.unroll(4):
                token = T.meta_var((part * wide + n) * 8 + lane // 4)
                for j in T.unroll(both):
                    i = T.meta_var(((n * 4 + k) * both + j) * 4)
                    eighth = T.meta_var(lane % 4 // 2 * 2 + j if kind.sparse else lane % 4)
                    column = T.meta_var((rank * slices + slice_) * PIECE + k * _CHUNK + eighth * 8)
                    if token < tokens and column < depth:
                        T.ptx["ld.global.v4.b32"](first[i], first[i + 1], first[i + 2], first[i + 3], X.ptr_to([token, column]))
        for i in T.unroll(wide * 4):
            halved(i * 4, first, i * both * 4)
        if stages > 1:
            for i in T.unroll(stages - 1):
                fetch(i + 1)
            T.ptx["cp.async.commit_group"]()
        for i in T.unroll(count * wide * 4):
            sums[i] = T.float32(0)
        for run in T.serial(runs[0]):
            arrived()
            if arch.bulk_copies and run == T.max(runs[0] - stages, 0):
                T.ptx.griddepcontrol.launch_dependents()
            if run > 0:
                if stages > 1 and run == 1:
                    T.ptx["cp.async.wait_group"](count - 1 if sharing else count)
                    T.cuda.warp_sync()
                for n in T.unroll(wide):
                    for k in T.unroll(4):
                        i = T.meta_var((n * 4 + k) * 4)
                        at = T.meta_var(x_at + ((run % stages * wide + n) * 4 + k) * 512)
                        for j in T.unroll(both):
                            other = T.meta_var(lane // 2 * 2 + j - lane if kind.sparse else 0)
                            T.ptx["ld.shared.v4.b32"](h[j * 4], h[j * 4 + 1], h[j * 4 + 2], h[j * 4 + 3], memory.ptr_to([at + other * 16]))
                        halved(i, h, 0)
            if kind.sparse:
                T.cuda.warp_sync()
            fetch(run + stages)
            stage = T.meta_var(run % stages)
            for t in T.unroll(count):
                at = T.meta_var(ring + (stage * count + t) * piece)
                if t > 0:
                    arrived()
                if sharing:  # all have read the piece before this one
                    if t > 0:
                        if run + stages < runs[0]:
                            fill(stage, t - 1)
                        T.ptx["cp.async.commit_group"]()
                    else:
                        if run > 0:
                            if run - 1 + stages < runs[0]:
                                fill((run + stages - 1) % stages, count - 1)
                            here[0] = here[0] + T.int64(width * piece)
                            T.ptx["cp.async.commit_group"]()
                if kind.sparse:
                    T.ptx["ld.shared.v2.b32"](e[0], e[1], memory.ptr_to([at + kind.places_at + lane * 8]))
                if groups == 1:
                    T.ptx["ld.shared.b32"](c[0], memory.ptr_to([at + kind.scales_at + lane // 4 * 4]))
                elif groups == 2:
                    T.ptx["ld.shared.v2.b32"](c[0], c[1], memory.ptr_to([at + kind.scales_at + lane // 4 * 8]))
                else:
                    T.ptx["ld.shared.v4.b32"](c[0], c[1], c[2], c[3], memory.ptr_to([at + kind.scales_at + lane // 4 * 16]))
                if kind.zeros:
                    if groups == 1:
                        T.ptx["ld.shared.u16"](z[0], memory.ptr_to([at + kind.zeros_at + lane // 4 * 2]))
                    elif groups == 2:
                        T.ptx["ld.shared.b32"](z[0], memory.ptr_to([at + kind.zeros_at + lane // 4 * 4]))
                    else:
                        T.ptx["ld.shared.v2.b32"](z[0], z[1], memory.ptr_to([at + kind.zeros_at + lane // 4 * 8]))
                for i in T.unroll(groups * chains * wide * 4):
                    s[i] = T.float32(0)
                for u in T.unroll(words // 4):
                    T.ptx["ld.shared.v4.b32"](v[u * 4], v[u * 4 + 1], v[u * 4 + 2], v[u * 4 + 3], memory.ptr_to([at + u * 512 + lane * 16]))
                    if u == words // 4 - 1:
                        T.cuda.warp_sync()
                        if not sharing:
                            if run + stages < runs[0]:
                                fill(stage, t)
                            T.ptx["cp.async.commit_group"]()
                    for n in T.unroll(per_quad):
                        k = T.meta_var(u * per_quad + n)  # instruction of the piece
                        g = T.meta_var(k // per_group)
                        for i in T.unroll(4):
                            number(k, g, i)
                        for q in T.unroll(wide):
                            i = T.meta_var(((g * chains + k % chains) * wide + q) * 4)
                            if kind.sparse:
                                if k % 2 == 0:
                                    add_sparse(i, k * 4, (q * 4 + k) * 4, k // 2, 0)
                                else:
                                    add_sparse(i, k * 4, (q * 4 + k) * 4, k // 2, 1)
                            else:
                                add_dense(i, k * 4, (q * 4 + k // 2) * 4 + k % 2 * 2)
                        if k % per_group == per_group - 1:
                            scaled(g, t)
            if not sharing:
                here[0] = here[0] + T.int64(width * piece)
        T.cuda.cta_sync()
        for t in T.unroll(count):
            for n in T.unroll(wide):
                for i in T.unroll(4):
                    token = T.meta_var((part * wide + n) * 8 + lane % 4 * 2 + i % 2)
                    row = T.meta_var(t * TILE + lane // 4 + i // 2 * 8)
                    T.ptx["st.shared.f32"](memory.ptr_to([((slice_ * most + token) * pitch + row) * 4]), sums[(t * wide + n) * 4 + i])
        if split > 1:
            T.ptx.barrier.cluster.arrive.release()
            T.ptx.barrier.cluster.wait.acquire()
        else:
            T.cuda.cta_sync()
        for n in T.unroll(rounds):  # all that a thread adds is on its way before it adds the first
            place = T.meta_var((n * split + rank) * threads + thread)
            within = T.meta_var(T.min(place, outs * most - 1) if rest else place)
            for i in T.unroll(width):
                for j in T.unroll(factors):
                    row = T.meta_var(tile_row(spec, within % outs) + j * 8)
                    at = T.meta_var(((i % slices * most + within // outs) * pitch + row) * 4)
                    to = T.meta_var((n * width + i) * factors + j)
                    if split > 1:
                        T.ptx["mapa.shared::cluster.u32"](
                            address[0], T.cuda.cvta_generic_to_shared(memory.ptr_to([at])), T.cast(i // slices, "uint32")
                        )
                        T.ptx["ld.shared::cluster.f32"](term[to], address[0])
                    else:
                        T.ptx["ld.shared.f32"](term[to], memory.ptr_to([at]))
        for n in T.unroll(rounds):
            place = T.meta_var((n * split + rank) * threads + thread)
            token = T.meta_var(place // outs)
            output = T.meta_var(top * (outs // count) + place % outs)
            if token < tokens and token < most and output < outputs and (place % outs < own * (outs // count) if uneven else True):
                for j in T.unroll(factors):
                    total[j] = term[n * width * factors + j]
                    for i in T.unroll(width - 1):
                        total[j] = total[j] + term[(n * width + i + 1) * factors + j]
                Y[token, output] = result(spec, B, R, token, output, total[0], total[1])
        if split > 1:  # what others read stays
            T.ptx.barrier.cluster.arrive.release()
            T.ptx.barrier.cluster.wait.acquire()

    return group_decode


KERNEL = Kernel(FORMS, TOKENS, Ring, parts, space, prepare, _unpack, build, geometry, "group_expand")
