"""Units of `streams` back to a dense weight, for more tokens than any kernel takes: cuBLAS multiplies that.

A warp expands a unit. Each lane scatters its stream into a column of shared memory, its own bank, and reads from there 8 neighbouring
inputs of its row at once.
"""

from __future__ import annotations

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.pieces.units import BYTES, LINE, columns, positions, walker
from sparsecc.codegen.cuda.script import T
from sparsecc.codegen.cuda.streams import BLOCK, INPUTS, LANES, ROWS, UNIT, WORDS, strips, units

_WARPS = 4
_AREA = WORDS * LINE // 2  # bytes of a warp
_SLOTS = 2


def geometry(spec: LinearSpec, arch: Arch) -> Geometry:
    count = strips(spec.outputs, spec.gated) * units(spec.depth)
    return Geometry((-(-count // _WARPS), 1, 1), _WARPS * 32, _WARPS * _AREA)


def build(spec: LinearSpec, arch: Arch):
    per_strip = units(spec.depth)
    count = strips(spec.outputs, spec.gated) * per_strip
    open, walk = walker(_SLOTS)

    @T.prim_func
    def gather_expand(w: T.handle, s: T.handle, n: T.handle, d: T.handle):
        T.func_attr({"global_symbol": "gather_expand"})
        W = T.match_buffer(w, (BYTES // UNIT, UNIT), "uint8", align=16)
        starts = T.match_buffer(s, (count + 1,), "int32")
        lengths = T.match_buffer(n, (count, LANES), "uint8", align=16)
        D = T.match_buffer(d, (spec.rows, spec.depth), spec.dtype, align=16)
        T.device_entry()
        block = T.cta_id([-(-count // _WARPS)])
        warp = T.warp_id([_WARPS])
        lane = T.lane_id([32])
        pool = T.SMEMPool()
        area = pool.alloc((_WARPS * _AREA,), "uint8", align=128)
        pool.commit()
        v = T.alloc_local([4 * _SLOTS], "uint32")
        gaps = T.alloc_local([_SLOTS], "uint32")
        length = T.alloc_local([3], "uint32")
        place = T.alloc_local([3], "int32")
        p = T.alloc_local([3], "uint32")
        low = T.alloc_local([1], "uint32")
        at = T.alloc_local([BLOCK], "uint32")
        words = T.alloc_local([4], "uint32")
        unit = T.meta_var(block * _WARPS + warp)
        strip = T.meta_var(unit // per_strip)
        for i in T.unroll(_AREA // 512):
            T.ptx["st.shared.v4.b32"](area.ptr_to([warp * _AREA + i * 512 + lane * 16]), T.uint32(0), T.uint32(0), T.uint32(0), T.uint32(0))

        @T.inline
        def unit_at(u, where):
            where[0] = unit

        open(unit_at, W, starts, lengths, v, gaps, length, place, T.if_then_else(unit < count, 1, 0), lane)
        T.cuda.cta_sync()
        pair = T.meta_var(warp // 2 * (2 * _AREA))
        T.ptx["mov.b32"](low[0], T.cast(warp % 2 * (LINE // 2) + lane * 4, "uint32") * T.uint32(0x01010101))

        @T.inline
        def before(u):
            p[2] = T.uint32(0)

        @T.inline
        def use(v, slot, gaps):
            positions(gaps, p)
            columns(p, low[0], at)
            for i in T.unroll(BLOCK):
                word = T.meta_var(v[slot * 4 + i // 2])
                number = T.meta_var(T.cast(T.Select(i % 2 == 1, word >> T.uint32(16), word), "uint16"))
                T.ptx["st.shared.b16"](area.ptr_to([pair + T.cast(at[i], "int32")]), number)

        @T.inline
        def after(u):
            row = T.meta_var(strip // 2 * ROWS + strip % 2 * spec.outputs if spec.gated else strip * ROWS)
            missing = T.meta_var(spec.outputs - (strip // 2 if spec.gated else strip) * ROWS)  # rows of a strip beyond it are none
            for i in T.serial(WORDS // 4):
                for j in T.unroll(4):
                    T.ptx["ld.shared.b32"](words[j], area.ptr_to([pair + (i * 4 + j) * LINE + warp % 2 * (LINE // 2) + lane * 4]))
                column = T.meta_var(unit % per_strip * INPUTS + i * 32 + lane % 4 * 8)
                if lane // 4 < missing and column < spec.depth:
                    T.ptx["st.global.v4.b32"](D.ptr_to([row + lane // 4, column]), words[0], words[1], words[2], words[3])

        walk(unit_at, before, use, after, W, starts, lengths, v, gaps, length, place, T.if_then_else(unit < count, 1, 0), lane)

    return gather_expand
