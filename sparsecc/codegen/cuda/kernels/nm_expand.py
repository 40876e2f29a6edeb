"""A packed 2:4 weight → dense [rows, depth], as a matrix product for many tokens takes it, so that no dense copy has to be kept.

A warp takes one unit, 16 rows × 64 inputs. Its lanes write 8 bytes, a group of four inputs, four of them next to each other: whole sectors.
Narrow numbers are multiplied by their scales and rounded to the spec's dtype.
"""

from __future__ import annotations

import sparsecc.codegen.cuda.pack as packing
from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.pack import STEP, TILE, UNIT, narrow_kind, packed_depth, packed_tiles
from sparsecc.codegen.cuda.pieces.widen import widen
from sparsecc.codegen.cuda.script import T

_WARPS = 8  # of a block


def geometry(spec: LinearSpec, arch: Arch) -> Geometry:
    return Geometry((_blocks(spec), 1, 1), _WARPS * 32, 0)


def _blocks(spec: LinearSpec) -> int:
    return -(-packed_tiles(spec) * packed_depth(spec) // UNIT // _WARPS)


def build(spec: LinearSpec, arch: Arch):
    """PrimFunc(W, S, D): W and S as `nm_decode.prepare` has them, S of narrow numbers only, D [rows, depth].

    The depth is a multiple of 8."""
    narrow, dtype, depth, outputs = bool(narrow_kind(spec)), spec.dtype, spec.depth, spec.outputs
    tiles, units, unit_bytes = packed_tiles(spec), packed_depth(spec) // UNIT, packing.unit_bytes(narrow)
    places, blocks = packing.value_bytes(narrow), _blocks(spec)
    widened = widen(narrow_kind(spec), dtype) if narrow else None

    @T.prim_func
    def nm_expand(w: T.handle, s: T.handle, d: T.handle):
        T.func_attr({"global_symbol": "nm_expand"})
        W = T.match_buffer(w, (tiles, units, unit_bytes), "uint8", align=16)
        S = T.match_buffer(s, (spec.rows,), "float32")
        D = T.match_buffer(d, (spec.rows, depth), dtype, align=16)
        T.device_entry()
        block = T.cta_id([blocks])
        warp = T.warp_id([_WARPS])
        lane = T.lane_id([32])
        tile = T.meta_var((block * _WARPS + warp) // units)
        unit = T.meta_var((block * _WARPS + warp) % units)
        a = T.alloc_local([8], "uint32")  # step, half of the groups, half of the tile
        n = T.alloc_local([4], "uint32")
        e = T.alloc_local([4], "uint32")  # step, half of the groups
        four = T.alloc_local([1], "uint64")

        @T.inline
        def load(to, i, offset):
            T.ptx["ld.global.nc.L1::no_allocate.v4.b32"](to[i], to[i + 1], to[i + 2], to[i + 3], W.ptr_to([tile, unit, offset]))

        @T.inline
        def scaled(i, row):
            low = T.meta_var(T.reinterpret(dtype, T.cast(a[i], "uint16")))
            high = T.meta_var(T.reinterpret(dtype, T.cast(a[i] >> T.uint32(16), "uint16")))
            both = T.alloc_local([2], "uint32")
            both[0] = T.cast(T.reinterpret("uint16", T.cast(T.cast(low, "float32") * S[row], dtype)), "uint32")
            both[1] = T.cast(T.reinterpret("uint16", T.cast(T.cast(high, "float32") * S[row], dtype)), "uint32")
            a[i] = both[0] | (both[1] << T.uint32(16))

        if tile < tiles:
            load(e, 0, places + lane // 4 * 16)
            if narrow:
                load(n, 0, lane * 16)
                for i in T.unroll(4):
                    widened(a, i * 2, n[i])
            else:
                load(a, 0, lane * 16)
                load(a, 4, places // 2 + lane * 16)
            for half in T.unroll(2):
                row = T.meta_var(half * outputs + tile * 8 + lane // 4 if spec.gated else tile * TILE + half * 8 + lane // 4)
                output = T.meta_var(tile * 8 + lane // 4 if spec.gated else row)
                if output < outputs:
                    for i in T.unroll(4):
                        column = T.meta_var(unit * UNIT + i // 2 * STEP + i % 2 * 16 + lane % 4 * 4)
                        if column < depth:
                            if narrow:
                                scaled(i * 2 + half, row)
                            nibble = T.meta_var(e[i] >> T.cast(half * 16 + lane % 4 * 4, "uint32"))
                            first = T.meta_var(T.cast((nibble & T.uint32(3)) * T.uint32(16), "uint64"))
                            second = T.meta_var(T.cast(((nibble >> T.uint32(2)) & T.uint32(3)) * T.uint32(16), "uint64"))
                            low = T.meta_var(T.cast(a[i * 2 + half] & T.uint32(0xFFFF), "uint64"))
                            high = T.meta_var(T.cast(a[i * 2 + half] >> T.uint32(16), "uint64"))
                            four[0] = (low << first) | (high << second)
                            T.ptx["st.global.b64"](D.ptr_to([row, column]), four[0])

    return nm_expand
