"""Weights with any zeros times one to four tokens, in bfloat16 or float16, without tensor cores: each entry's inputs are gathered.

A warp takes strips of 8 rows, its lanes a row and a class of inputs each, as `streams` stores them. So its sums stay in registers over the
whole depth. The bytes of a warp's units come through its own ring of bulk copies; no warp waits for another.

X lies in shared memory, in the order of the streams' positions: one word is one token's input in float32, or two tokens' inputs in 16 bits.
The 8 lanes of a class read different positions, which meet in the banks: 3.0 turns a load on average. With 8 copies of X, one for each
row, every lane has its own bank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import Kernel, LinearSpec, Weights
from sparsecc.codegen.cuda.pieces.epilogue import result
from sparsecc.codegen.cuda.pieces.units import ALL, BYTES
from sparsecc.codegen.cuda.pieces.units import ring as units_ring
from sparsecc.codegen.cuda.streams import BLOCK, CLASSES, INPUTS, POSITIONS, ROWS, UNIT, WORDS, pack, parts, strips, units, unpack
from sparsecc.codegen.cuda.script import T

TOKENS = (1, 2, 4)


@dataclass(frozen=True)
class Gather:
    """strips: of a cluster.  cluster: blocks that share the strips' depth.  splits: warps of a block that share its part of it.  copies: of X.
    segment: bytes of a bulk copy.  segments: of a warp's ring."""

    strips: int
    cluster: int
    splits: int
    copies: int
    segment: int
    segments: int

    @property
    def warps(self) -> int:
        return self.strips * self.splits

    @property
    def ring(self) -> int:
        return self.segment * self.segments

    def shared_bytes(self, spec: LinearSpec) -> int:
        barriers = -(-self.warps * self.segments * 8 // 128) * 128
        return barriers + self.warps * self.ring + self.sum_bytes(spec) + self.x_bytes(spec)

    def sum_bytes(self, spec: LinearSpec) -> int:
        return self.warps * self.cluster * ROWS * spec.tokens * 4

    def x_bytes(self, spec: LinearSpec) -> int:
        return -(-units(spec.depth) // self.cluster) * POSITIONS * CLASSES * self.copies * _word(spec)


def _word(spec: LinearSpec) -> int:
    return 8 if spec.tokens == 4 else 4


def space(spec: LinearSpec, arch: Arch) -> list[Gather]:
    return list(_space(spec, arch)) if arch.bulk_copies and spec.depth % 8 == 0 else []


def _space(spec: LinearSpec, arch: Arch) -> Iterator[Gather]:
    for copies in (8, 4, 2, 1):
        if copies * _word(spec) > 32:  # more copies than lanes to read at once
            continue
        for count, cluster in product((28, 14, 8, 7, 4, 2, 1), (1, 2)):
            if spec.gated and count % 2:
                continue
            for splits in (1, 2, 4, 7):
                if splits * cluster > units(spec.depth):
                    continue
                for segment in (1024, 2048):
                    for segments in (4, 8):
                        knobs = Gather(count, cluster, splits, copies, segment, segments)
                        if 4 <= knobs.warps <= 28 and knobs.shared_bytes(spec) <= arch.shared_bytes:
                            yield knobs


def prepare(weights: Weights, spec: LinearSpec) -> dict[str, Tensor]:
    data, starts = pack(weights.numbers, spec.gated)
    return {"W": data, "starts": starts}


def restore(parts: dict[str, Tensor], spec: LinearSpec) -> Weights:
    return Weights(unpack(parts["W"], parts["starts"], spec.rows, spec.depth, getattr(torch, spec.dtype), spec.gated))


def geometry(spec: LinearSpec, knobs: Gather, arch: Arch) -> Geometry:
    blocks = -(-strips(spec.outputs, spec.gated) // knobs.strips) * knobs.cluster
    return Geometry((blocks, 1, 1), knobs.warps * 32, knobs.shared_bytes(spec), knobs.cluster, dependent=True)


def build(spec: LinearSpec, knobs: Gather, arch: Arch):
    splits, copies, segment, segments, ring_bytes = knobs.splits, knobs.copies, knobs.segment, knobs.segments, knobs.ring
    warps, threads, outputs, depth, dtype, most = knobs.warps, knobs.warps * 32, spec.outputs, spec.depth, spec.dtype, spec.tokens
    total_strips, per_strip = strips(spec.outputs, spec.gated), units(spec.depth)
    cluster, parts = knobs.cluster, knobs.cluster * splits
    blocks = -(-total_strips // knobs.strips) * cluster
    word = _word(spec)
    pitch = CLASSES * copies * word  # bytes from a position of X to the next
    most_units = -(-per_strip // cluster)  # whose X a block holds
    groups = most_units * WORDS  # of one class's pairs of inputs
    rounds = -(-groups // threads)
    numbers = knobs.strips * ROWS // (2 if spec.gated else 1)  # of a token that a block stores
    quads = word // 4  # 16 bytes that a group of 4 inputs takes

    start, walk = units_ring(segment, segments)

    @T.prim_func
    def gather_decode(w: T.handle, s: T.handle, x: T.handle, b: T.handle, r: T.handle, y: T.handle, tokens: T.int32):
        T.func_attr(
            {
                "global_symbol": "gather_decode",
                "tirx.kernel_launch_params": ["tirx.use_programtic_dependent_launch"],
            }
        )
        W = T.match_buffer(w, (BYTES // UNIT, UNIT), "uint8", align=16)
        starts = T.match_buffer(s, (total_strips * per_strip + 1,), "int32")
        X = T.match_buffer(x, (tokens, depth), dtype, align=16)
        B = T.match_buffer(b, (spec.rows,), dtype)
        R = T.match_buffer(r, (tokens, outputs), dtype)
        Y = T.match_buffer(y, (tokens, outputs), dtype)
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
        block = T.cta_id([blocks])
        warp = T.warp_id([warps])
        lane = T.lane_id([32])
        thread = T.meta_var(warp * 32 + lane)
        pool = T.SMEMPool()
        full = pool.alloc((warps * segments,), "uint64", align=8)
        ring = pool.alloc((warps * ring_bytes,), "uint8", align=128)
        inputs = pool.alloc((knobs.x_bytes(spec),), "uint8", align=128)
        partial = pool.alloc((knobs.sum_bytes(spec),), "uint8", align=16)
        pool.commit()
        sums = T.alloc_local([most], "float32")
        at = T.alloc_local([BLOCK], "int32")
        xs = T.alloc_local([BLOCK * quads], "uint32")
        value = T.alloc_local([1], "float32")
        first = T.alloc_local([1], "int32")  # where the warp's bytes begin, in 16
        size = T.alloc_local([1], "int32")
        policy = T.alloc_local([1], "uint64")
        T.ptx["createpolicy.fractional.L2::evict_first.b64"](policy[0], T.float32(1.0))
        strip = T.meta_var(block // cluster * knobs.strips + warp // splits)
        here = T.meta_var(block % cluster * per_strip // cluster)  # the block's first unit
        there = T.meta_var((block % cluster + 1) * per_strip // cluster)
        begin = T.meta_var(here + warp % splits * (there - here) // splits)
        end = T.meta_var(here + (warp % splits + 1) * (there - here) // splits)

        first[0] = 0
        size[0] = 0
        if strip < total_strips:
            first[0] = starts[strip * per_strip + begin]
            size[0] = (starts[strip * per_strip + end] - first[0]) * UNIT
        start(W, ring, full, policy, first, size, warp, lane)
        T.ptx.griddepcontrol.wait()
        T.ptx.griddepcontrol.launch_dependents()
        raw = T.alloc_local([rounds * most * 4], "uint32")
        quad = T.alloc_local([4 * quads], "uint32")
        for n in T.unroll(rounds):
            group = T.meta_var(n * threads + thread)
            for t in T.unroll(most):
                for q in T.unroll(CLASSES):
                    column = T.meta_var(here * INPUTS + group // 4 * 32 + q * 8 + group % 4 * 2)
                    raw[(n * most + t) * 4 + q] = T.uint32(0)
                    if column < depth and group < groups and t < tokens:
                        T.ptx["ld.global.b32"](raw[(n * most + t) * 4 + q], X.ptr_to([t, column]))
        for n in T.unroll(rounds):
            group = T.meta_var(n * threads + thread)
            if group < groups:
                for odd in T.unroll(2):
                    for j in T.unroll(4):
                        i = T.meta_var(n * most * 4 + j)
                        if most == 1:
                            quad[j] = T.reinterpret("uint32", _wide(raw[i], odd, dtype))
                        else:
                            for pair in T.unroll(quads):
                                a = T.meta_var(raw[i + pair * 8])
                                c = T.meta_var(raw[i + pair * 8 + 4])
                                if odd == 0:
                                    quad[j * quads + pair] = (a & T.uint32(0xFFFF)) | (c << T.uint32(16))
                                else:
                                    quad[j * quads + pair] = (a >> T.uint32(16)) | (c & T.uint32(0xFFFF0000))
                    position = T.meta_var(group // WORDS * POSITIONS + odd * WORDS + group % WORDS)
                    for copy in T.unroll(copies):
                        mine = T.meta_var((copy + thread) % copies)  # neighbours write to different banks
                        for k in T.unroll(quads):
                            T.ptx["st.shared.v4.b32"](
                                inputs.ptr_to([position * pitch + (mine * quads + k) * 16]),
                                quad[k * 4], quad[k * 4 + 1], quad[k * 4 + 2], quad[k * 4 + 3],
                            )  # fmt: skip
        if cluster == 1:
            T.cuda.cta_sync()
        else:
            T.ptx.barrier.cluster.arrive()  # the first block's shared memory may be written to only once it runs
            T.ptx.barrier.cluster.wait()
        for t in T.unroll(most):
            sums[t] = T.float32(0)

        @T.inline
        def before(u):
            at[BLOCK - 1] = (begin - here + u) * (POSITIONS * pitch) + (lane // 4 % copies * CLASSES + lane % 4) * word

        @T.inline
        def use(v, gaps):
            for i in T.unroll(BLOCK):
                at[i] = at[(i - 1) % BLOCK] + T.cast((gaps >> T.uint32(4 * i)) & T.uint32(15), "int32") * pitch
            for i in T.unroll(BLOCK):
                if quads == 1:
                    T.ptx["ld.shared.b32"](xs[i], inputs.ptr_to([at[i]]))
                else:
                    T.ptx["ld.shared.v2.b32"](xs[i * 2], xs[i * 2 + 1], inputs.ptr_to([at[i]]))
            for i in T.unroll(BLOCK):
                value[0] = _wide(v[i // 2], i % 2, dtype)
                if most == 1:
                    sums[0] = sums[0] + value[0] * T.reinterpret("float32", xs[i])
                else:
                    for t in T.unroll(most):
                        sums[t] = sums[t] + value[0] * _wide(xs[i * quads + t // 2], t % 2, dtype)

        @T.inline
        def after(u):
            pass

        walk(before, use, after, W, ring, full, policy, first, size, warp, lane, end - begin)
        part = T.alloc_local([1], "float32")
        for t in T.unroll(most):
            for k in T.unroll(2):
                T.ptx["shfl_sync.bfly.b32"](part[0], sums[t], T.uint32(1 << k), T.uint32(0x1F), T.uint32(ALL))
                sums[t] = sums[t] + part[0]
            if lane % 4 == 0:
                slot = T.meta_var(((warp // splits * parts + block % cluster * splits + warp % splits) * most + t) * ROWS + lane // 4)
                if cluster == 1:
                    T.ptx["st.shared.f32"](partial.ptr_to([slot * 4]), sums[t])
                else:
                    T.ptx["mapa.u64"](policy[0], partial.ptr_to([slot * 4]), T.uint32(0))
                    T.ptx["st.f32"](policy[0], sums[t])
        if cluster == 1:
            T.cuda.cta_sync()
        else:
            T.ptx.barrier.cluster.arrive()
            T.ptx.barrier.cluster.wait()
        total = T.alloc_local([2], "float32")
        for n in T.serial(-(-numbers * most // threads)):
            place = T.meta_var(n * threads + thread)
            if place < numbers * most and block % cluster == 0:
                token = T.meta_var(place // numbers)
                row = T.meta_var(place % numbers)
                output = T.meta_var(block // cluster * numbers + row)
                if token < tokens and output < outputs:
                    for half in T.unroll(2 if spec.gated else 1):
                        total[half] = T.float32(0)
                        for i in T.unroll(parts):
                            source = T.meta_var(((row // ROWS * (2 if spec.gated else 1) + half) * parts + i) * most + token)
                            T.ptx["ld.shared.f32"](part[0], partial.ptr_to([(source * ROWS + row % ROWS) * 4]))
                            total[half] = total[half] + part[0]
                    Y[token, output] = result(spec, B, R, token, output, total[0], total[1])

    return gather_decode


def _wide(word, odd, dtype):
    """float32 of the lower or the upper 16 bits."""
    if dtype == "bfloat16":
        return T.reinterpret("float32", T.Select(odd == 1, word & T.uint32(0xFFFF0000), word << T.uint32(16)))
    return T.cast(T.reinterpret("float16", T.cast(T.Select(odd == 1, word >> T.uint32(16), word), "uint16")), "float32")


KERNEL = Kernel(("sparse",), TOKENS, Gather, parts, space, prepare, restore, build, geometry, "gather_expand")
