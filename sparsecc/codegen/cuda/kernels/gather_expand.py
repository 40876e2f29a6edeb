"""Units of `streams` back to a dense weight, for more tokens than any kernel takes: cuBLAS multiplies that.

A warp expands a unit. Each lane scatters its stream into a column of shared memory, its own bank, and reads from there 8 neighbouring
inputs of its row at once.
"""

from __future__ import annotations

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.pieces.units import BYTES, straight
from sparsecc.codegen.cuda.streams import BLOCK, INPUTS, ROWS, UNIT, WORDS, strips, units
from sparsecc.codegen.cuda.script import T

_WARPS = 4
_LINE = 128  # bytes: a word of each lane
_AREA = WORDS * _LINE


def geometry(spec: LinearSpec, arch: Arch) -> Geometry:
    count = strips(spec.outputs, spec.gated) * units(spec.depth)
    return Geometry((-(-count // _WARPS), 1, 1), _WARPS * 32, _WARPS * _AREA)


def build(spec: LinearSpec, arch: Arch):
    per_strip = units(spec.depth)
    count = strips(spec.outputs, spec.gated) * per_strip
    walk = straight()

    @T.prim_func
    def gather_expand(w: T.handle, s: T.handle, d: T.handle):
        T.func_attr({"global_symbol": "gather_expand"})
        W = T.match_buffer(w, (BYTES // UNIT, UNIT), "uint8", align=16)
        starts = T.match_buffer(s, (count + 1,), "int32")
        D = T.match_buffer(d, (spec.rows, spec.depth), spec.dtype, align=16)
        T.device_entry()
        block = T.cta_id([-(-count // _WARPS)])
        warp = T.warp_id([_WARPS])
        lane = T.lane_id([32])
        pool = T.SMEMPool()
        area = pool.alloc((_WARPS * _AREA,), "uint8", align=128)
        pool.commit()
        at = T.alloc_local([BLOCK], "int32")
        words = T.alloc_local([4], "uint32")
        first = T.alloc_local([1], "int32")
        size = T.alloc_local([1], "int32")
        unit = T.meta_var(block * _WARPS + warp)
        strip = T.meta_var(unit // per_strip)
        for i in T.unroll(_AREA // 512):
            T.ptx["st.shared.v4.b32"](
                area.ptr_to([warp * _AREA + i * 512 + lane * 16]), T.uint32(0), T.uint32(0), T.uint32(0), T.uint32(0)
            )
        T.cuda.warp_sync()
        first[0] = 0
        size[0] = 0
        if unit < count:
            first[0] = starts[unit]
            size[0] = 1

        @T.inline
        def before(u):
            at[BLOCK - 1] = 0

        @T.inline
        def use(v, gaps):
            for i in T.unroll(BLOCK):
                at[i] = at[(i - 1) % BLOCK] + T.cast((gaps >> T.uint32(4 * i)) & T.uint32(15), "int32") * _LINE
            for i in T.unroll(BLOCK):
                place = T.meta_var((at[i] & (_AREA - 1)) + at[i] // _AREA * 2)
                number = T.meta_var(T.cast(T.Select(i % 2 == 1, v[i // 2] >> T.uint32(16), v[i // 2]), "uint16"))
                T.ptx["st.shared.b16"](area.ptr_to([warp * _AREA + lane * 4 + place]), number)

        @T.inline
        def after(u):
            row = T.meta_var(strip // 2 * ROWS + strip % 2 * spec.outputs if spec.gated else strip * ROWS)
            missing = T.meta_var(spec.outputs - (strip // 2 if spec.gated else strip) * ROWS)  # rows of a strip beyond it are none
            for i in T.serial(WORDS // 4):
                for j in T.unroll(4):
                    T.ptx["ld.shared.b32"](words[j], area.ptr_to([warp * _AREA + (i * 4 + j) * _LINE + lane * 4]))
                column = T.meta_var(unit % per_strip * INPUTS + i * 32 + lane % 4 * 8)
                if unit < count and lane // 4 < missing and column < spec.depth:
                    T.ptx["st.global.v4.b32"](D.ptr_to([row + lane // 4, column]), words[0], words[1], words[2], words[3])

        walk(before, use, after, W, first, size, lane, 1)

    return gather_expand
