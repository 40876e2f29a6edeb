"""Weights with any zeros times one to four tokens, in bfloat16 or float16, without tensor cores: each entry's inputs are gathered.

A warp takes some units of 8 rows, its lanes a row and a class of inputs each, as `streams` stores them. So its sums stay in registers over
a unit; units are added in their order at the end. What bounds it from 4 tokens on is the issue of instructions: 80 for each block of
entries with 1 token, 104 with 4, and for 14336x4096 at 60 % of zeros each scheduler of an H200 has 210 blocks.

X lies in shared memory, all tokens of an input side by side, in the order of the streams' positions. A position has 256 bytes, so that one
`prmt` makes an address of a position and a lane. In these stand the same position of several units, the classes, and copies of X: the lanes
of a class read different positions, which would meet in the banks.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import Kernel, LinearSpec
from sparsecc.codegen.cuda.pieces.epilogue import result
from sparsecc.codegen.cuda.pieces.units import ALL, BYTES, positions, walker
from sparsecc.codegen.cuda.pieces.widen import half
from sparsecc.codegen.cuda.script import T
from sparsecc.codegen.cuda.streams import (
    BLOCK,
    CLASSES,
    INPUTS,
    LANES,
    POSITIONS,
    ROWS,
    UNIT,
    WORDS,
    parts,
    prepare,
    restore,
    strips,
    units,
)

TOKENS = (1, 2, 4)
_PITCH = 256  # bytes of a position
_BANKS = 128  # bytes that a warp reads at once
_PROCESSORS, _WARPS = 132, 28  # of an H200; of a processor, so that 4 tokens have registers enough
_STRIPS = 56  # of a block at most: their sums take shared memory
# resident, cluster, part of the copies, wide, more ahead; an H200's best first
_CHOICES = (
    (1, 1, 1, True, 0),
    (1, 1, 1, False, 0),
    (1, 2, 2, False, 0),
    (1, 2, 2, True, 0),
    (1, 1, 1, True, 1),
    (1, 1, 1, False, 1),
    (1, 1, 2, True, 0),
    (1, 1, 4, True, 1),
    (1, 1, 8, True, 0),
    (1, 1, 8, False, 0),
    (2, 2, 1, True, 0),
    (2, 1, 2, False, 0),
)


@dataclass(frozen=True)
class Gather:
    """strips: of a cluster.  cluster: blocks that share the strips' depth.  warps: of a block, which share out its units.  copies: of X.
    wide: X in float32, otherwise in 16 bits.  ahead: blocks of entries of a warp whose loads are in flight.  resident: blocks of threads
    that a processor has room for. With room for more, the next launch's first ones crowd into what is free, and their processors are late:
    35 µs instead of 19."""

    strips: int
    cluster: int
    warps: int
    copies: int
    wide: bool = True
    ahead: int = 2
    resident: int = 1

    def input_bytes(self, spec: LinearSpec) -> int:
        return spec.tokens * (4 if self.wide else 2)

    def side_by_side(self, spec: LinearSpec) -> int:
        """Units whose X shares the bytes of positions."""
        return _PITCH // (CLASSES * self.copies * self.input_bytes(spec))

    def x_bytes(self, spec: LinearSpec) -> int:
        held = -(-units(spec.depth) // self.cluster)
        return -(-held // self.side_by_side(spec)) * POSITIONS * _PITCH

    def sum_bytes(self, spec: LinearSpec) -> int:
        return self.strips * units(spec.depth) * ROWS * spec.tokens * 4

    def shared_bytes(self, spec: LinearSpec, arch: Arch) -> int:
        return max(self.x_bytes(spec) + self.sum_bytes(spec), (arch.shared_bytes // (self.resident + 1) // 128 + 1) * 128)


def space(spec: LinearSpec, arch: Arch) -> list[Gather]:
    """One wave of blocks on `_PROCESSORS` if possible; first those where no two lanes' inputs meet in a bank."""
    if spec.depth % 8:
        return []
    found = {knobs: None for choice in _CHOICES if fits(spec, knobs := _wave(spec, *choice), arch)}
    return list(found)


def fits(spec: LinearSpec, knobs: Gather, arch: Arch) -> bool:
    held = units(spec.depth) // knobs.cluster
    return (
        (knobs.cluster == 1 or arch.bulk_copies)
        and held > 0
        and (knobs.wide or spec.tokens > 1)
        and CLASSES * knobs.copies * knobs.input_bytes(spec) <= _BANKS
        and not (spec.gated and knobs.strips % 2)
        and knobs.resident * (knobs.shared_bytes(spec, arch) + 1024) <= arch.shared_bytes + 1024
    )


def _wave(spec: LinearSpec, resident: int, cluster: int, copies: int, wide: bool, more: int) -> Gather:
    """copies: as a part of those that give each lane its own banks."""
    total = strips(spec.outputs, spec.gated)
    count = -(-total * cluster // (_PROCESSORS * resident))
    count = -(-count // -(-count // _STRIPS))
    count += count % 2 if spec.gated else 0
    tasks = count * -(-units(spec.depth) // cluster)
    each = -(-tasks // (_WARPS // resident))
    # a warp with one unit has fewer others beside it: 4096x4096 takes 8.4 µs instead of 9.0 with 4 ahead, 14336x4096 13.1 instead of 12.4
    ahead = (2 if each > 1 else 4 if spec.tokens == 1 else 3) + more
    inputs = spec.tokens * (4 if wide else 2)
    return Gather(count, cluster, max(4, -(-tasks // each)), max(1, _BANKS // (CLASSES * inputs) // copies), wide, ahead, resident)


def geometry(spec: LinearSpec, knobs: Gather, arch: Arch) -> Geometry:
    blocks = -(-strips(spec.outputs, spec.gated) // knobs.strips) * knobs.cluster
    return Geometry((blocks, 1, 1), knobs.warps * 32, knobs.shared_bytes(spec, arch), knobs.cluster, dependent=arch.bulk_copies)


def build(spec: LinearSpec, knobs: Gather, arch: Arch):
    copies, cluster, wide = knobs.copies, knobs.cluster, knobs.wide
    warps, threads, outputs, depth, dtype, most = knobs.warps, knobs.warps * 32, spec.outputs, spec.depth, spec.dtype, spec.tokens
    total_strips, per_strip = strips(spec.outputs, spec.gated), units(spec.depth)
    blocks = -(-total_strips // knobs.strips) * cluster
    size, beside = knobs.input_bytes(spec), knobs.side_by_side(spec)
    loaded = size // 4  # words of an input
    words = -(-per_strip // cluster) * WORDS * CLASSES  # pairs of inputs that a block holds
    rounds = -(-words // threads)
    numbers = knobs.strips * ROWS // (2 if spec.gated else 1)  # of a token that a cluster stores
    at_once = BLOCK // 2 if loaded == 4 else BLOCK  # entries whose inputs are loaded together
    open, walk = walker(knobs.ahead)

    @T.prim_func
    def gather_decode(w: T.handle, s: T.handle, n: T.handle, x: T.handle, b: T.handle, r: T.handle, y: T.handle, tokens: T.int32):
        T.func_attr({"global_symbol": "gather_decode"})
        W = T.match_buffer(w, (BYTES // UNIT, UNIT), "uint8", align=16)
        starts = T.match_buffer(s, (total_strips * per_strip + 1,), "int32")
        lengths = T.match_buffer(n, (total_strips * per_strip, LANES), "uint8", align=16)
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
        inputs = pool.alloc((knobs.x_bytes(spec),), "uint8", align=128)
        partial = pool.alloc((knobs.sum_bytes(spec),), "uint8", align=16)
        pool.commit()
        v = T.alloc_local([4 * knobs.ahead], "uint32")
        gaps = T.alloc_local([knobs.ahead], "uint32")
        length = T.alloc_local([3], "uint32")
        place = T.alloc_local([3], "int32")
        sums = T.alloc_local([most], "float32")
        p = T.alloc_local([3], "uint32")
        base = T.alloc_local([1], "uint32")
        at = T.alloc_local([BLOCK], "uint32")
        xs = T.alloc_local([at_once * loaded], "uint32")
        value = T.alloc_local([1], "float32")
        here = T.meta_var(block % cluster * per_strip // cluster)  # the block's first unit of each strip
        held = T.meta_var((block % cluster + 1) * per_strip // cluster - here)
        strip = T.meta_var(block // cluster * knobs.strips)
        tasks = T.meta_var(T.min(knobs.strips, total_strips - strip) * held)
        begin = T.alloc_local([1], "int32")
        count = T.alloc_local([1], "int32")
        begin[0] = warp * tasks // warps
        count[0] = (warp + 1) * tasks // warps - begin[0]

        @T.inline
        def unit_at(u, where):
            where[0] = (strip + (begin[0] + u) // held) * per_strip + here + (begin[0] + u) % held

        open(unit_at, W, starts, lengths, v, gaps, length, place, count[0], lane)
        if arch.bulk_copies:
            T.ptx.griddepcontrol.wait()
            T.ptx.griddepcontrol.launch_dependents()
        raw = T.alloc_local([rounds * most], "uint32")
        for n in T.unroll(rounds):
            word = T.meta_var((n * threads + thread) // CLASSES)
            column = T.meta_var(here * INPUTS + word // 4 * 32 + lane % CLASSES * 8 + word % 4 * 2)
            for t in T.unroll(most):
                raw[n * most + t] = T.uint32(0)
                if word < words // CLASSES and column < depth and t < tokens:
                    T.ptx["ld.global.b32"](raw[n * most + t], X.ptr_to([t, column]))
        for n in T.unroll(rounds):
            word = T.meta_var((n * threads + thread) // CLASSES)
            if word < words // CLASSES:
                for odd in T.unroll(2):
                    for i in T.unroll(loaded):
                        if wide:
                            xs[i] = T.reinterpret("uint32", half(raw[n * most + i], odd, dtype))
                        else:
                            halves = T.meta_var(T.uint32(0x5410) + T.cast(odd * 0x2222, "uint32"))
                            T.ptx["prmt.b32"](xs[i], raw[n * most + i * 2], raw[n * most + i * 2 + 1], halves)
                    position = T.meta_var(odd * WORDS + word % WORDS)
                    for copy in T.unroll(copies):  # neighbours write to different banks
                        lane_bytes = T.meta_var(((copy + lane // CLASSES) % copies * CLASSES + lane % CLASSES) * size)
                        target = T.meta_var(_offset(word // WORDS, beside) + position * _PITCH + lane_bytes)
                        if loaded == 1:
                            T.ptx["st.shared.b32"](inputs.ptr_to([target]), xs[0])
                        elif loaded == 2:
                            T.ptx["st.shared.v2.b32"](inputs.ptr_to([target]), xs[0], xs[1])
                        else:
                            T.ptx["st.shared.v4.b32"](inputs.ptr_to([target]), xs[0], xs[1], xs[2], xs[3])
        if cluster == 1:
            T.cuda.cta_sync()
        else:
            T.ptx.barrier.cluster.arrive()  # the first block's shared memory may be written to only once it runs
            T.ptx.barrier.cluster.wait()
        part = T.alloc_local([1], "float32")
        target = T.alloc_local([1], "uint64")

        @T.inline
        def before(u):
            held_unit = T.meta_var(_offset((begin[0] + u) % held, beside))
            bytes_before = T.meta_var(held_unit + (lane // 4 % copies * CLASSES + lane % 4) * size)
            T.ptx["mov.b32"](base[0], T.cast(bytes_before, "uint32"))  # not computed anew for each block
            p[2] = T.uint32(0)
            for t in T.unroll(most):
                sums[t] = T.float32(0)

        @T.inline
        def use(v, slot, gaps):
            positions(gaps, p)
            for i in T.unroll(BLOCK):  # bytes 0, 2 and 3 of the base, and the position between them
                T.ptx["prmt.b32"](at[i], p[i % 2], base[0], T.uint32(0x7604) + T.cast(i // 2 * 16, "uint32"))
            for part in T.unroll(BLOCK // at_once):
                for k in T.unroll(at_once):
                    source = T.meta_var(inputs.ptr_to([at[part * at_once + k]]))
                    j = T.meta_var(k * loaded)
                    if loaded == 1:
                        T.ptx["ld.shared.b32"](xs[j], source)
                    elif loaded == 2:
                        T.ptx["ld.shared.v2.b32"](xs[j], xs[j + 1], source)
                    else:
                        T.ptx["ld.shared.v4.b32"](xs[j], xs[j + 1], xs[j + 2], xs[j + 3], source)
                for k in T.unroll(at_once):
                    value[0] = half(v[slot * 4 + (part * at_once + k) // 2], k % 2, dtype)
                    for t in T.unroll(most):
                        if wide:
                            sums[t] = sums[t] + value[0] * T.reinterpret("float32", xs[k * loaded + t])
                        else:
                            sums[t] = sums[t] + value[0] * half(xs[k * loaded + t // 2], t % 2, dtype)

        @T.inline
        def after(u):
            for t in T.unroll(most):
                for k in T.unroll(2):
                    T.ptx["shfl_sync.bfly.b32"](part[0], sums[t], T.uint32(1 << k), T.uint32(0x1F), T.uint32(ALL))
                    sums[t] = sums[t] + part[0]
                if lane % 4 == 0:
                    task = T.meta_var(begin[0] + u)
                    slot = T.meta_var(((task // held * per_strip + here + task % held) * most + t) * ROWS + lane // 4)
                    if cluster == 1:
                        T.ptx["st.shared.f32"](partial.ptr_to([slot * 4]), sums[t])
                    else:
                        T.ptx["mapa.u64"](target[0], partial.ptr_to([slot * 4]), T.uint32(0))
                        T.ptx["st.f32"](target[0], sums[t])

        walk(unit_at, before, use, after, W, starts, lengths, v, gaps, length, place, count[0], lane)
        if cluster == 1:
            T.cuda.cta_sync()
        else:
            T.ptx.barrier.cluster.arrive()
            T.ptx.barrier.cluster.wait()
        total = T.alloc_local([2], "float32")
        for n in T.serial(-(-numbers * most // threads)):
            number = T.meta_var(n * threads + thread)
            if number < numbers * most and block % cluster == 0:
                token = T.meta_var(number // numbers)
                row = T.meta_var(number % numbers)
                output = T.meta_var(block // cluster * numbers + row)
                if token < tokens and output < outputs:
                    for factor in T.unroll(2 if spec.gated else 1):
                        total[factor] = T.float32(0)
                        for i in T.unroll(per_strip):
                            source = T.meta_var(((row // ROWS * (2 if spec.gated else 1) + factor) * per_strip + i) * most + token)
                            T.ptx["ld.shared.f32"](part[0], partial.ptr_to([(source * ROWS + row % ROWS) * 4]))
                            total[factor] = total[factor] + part[0]
                    Y[token, output] = result(spec, B, R, token, output, total[0], total[1])

    return gather_decode


def _offset(unit, beside):
    """Bytes of X before the first position of a unit."""
    return unit // beside * (POSITIONS * _PITCH) + unit % beside * (_PITCH // beside)


KERNEL = Kernel(("sparse",), TOKENS, Gather, parts, space, prepare, restore, build, geometry, "gather_expand")
