"""Integer weights in groups → the dense weight that they stand for, before a dense product of many tokens.

    D[o, i] = scale[o, g] · (W[o, i] - zero[o, g]), rounded to the spec's dtype

A warp expands a piece of 16 rows × 128 inputs (see `pack_groups.py`): its lanes make 8 neighbouring inputs of a row from their words, which
they write at once.
"""

from __future__ import annotations

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.pack_groups import PIECE, TILE, Form, form, pieces, tiles
from sparsecc.codegen.cuda.script import T

_WARPS = 8  # pieces of a block, side by side


def geometry(spec: LinearSpec, arch: Arch) -> Geometry:
    return Geometry((-(-pieces(spec) // _WARPS), tiles(spec), 1), 32 * _WARPS, 0)


def build(spec: LinearSpec, arch: Arch):
    """PrimFunc(W, D): W as `group_decode` has it, D [rows, depth], rows as they were before packing.  depth: a multiple of 8."""
    kind = form(spec.form)
    all_tiles, all_pieces, piece = tiles(spec), pieces(spec), kind.piece_bytes
    rows, depth, dtype, outputs = spec.rows, spec.depth, spec.dtype, spec.outputs
    columns = -(-all_pieces // _WARPS)
    groups, half_rows = kind.groups, TILE // 2

    @T.prim_func
    def group_expand(w: T.handle, d: T.handle):
        T.func_attr({"global_symbol": "group_expand"})
        W = T.match_buffer(w, (all_tiles, all_pieces, piece), "uint8", align=16)
        D = T.match_buffer(d, (rows, depth), dtype, align=16)
        T.device_entry()
        column, tile = T.cta_id([columns, all_tiles])
        warp = T.warp_id([_WARPS])
        lane = T.lane_id([32])
        at = T.meta_var(column * _WARPS + warp)
        v = T.alloc_local([kind.words], "uint32")
        e = T.alloc_local([1], "uint32")
        s = T.alloc_local([2], "uint32")
        z = T.alloc_local([1], "uint32")
        o = T.alloc_local([4], "uint32")
        x = T.alloc_local([2], "uint32")
        both = T.alloc_local([1], "uint64")
        if at < all_pieces:
            for i in T.unroll(kind.words // 4):
                T.ptx["ld.global.v4.b32"](v[i * 4], v[i * 4 + 1], v[i * 4 + 2], v[i * 4 + 3], W.ptr_to([tile, at, i * 512 + lane * 16]))
            for half in T.unroll(2):
                local = T.meta_var(lane // 4)
                row = T.meta_var(half * outputs + tile * half_rows + local if spec.gated else tile * TILE + half * half_rows + local)
                there = T.meta_var(tile * half_rows + local < outputs if spec.gated else row < rows)
                for k in T.unroll(4):  # 32 inputs
                    group = T.meta_var((local * groups + k * groups // 4) * 2 + half)
                    T.ptx["ld.global.u16"](s[0], W.ptr_to([tile, at, kind.scales_at + group * 2]))
                    if kind.zeros:
                        T.ptx["ld.global.u8"](z[0], W.ptr_to([tile, at, kind.zeros_at + group]))
                    else:
                        z[0] = T.uint32(8)
                    if kind.sparse:
                        for u in T.unroll(2):
                            word = T.meta_var((local * 4 + k % 2 * 2 + u) * 2 + k // 2)
                            T.ptx["ld.global.b32"](e[0], W.ptr_to([tile, at, kind.places_at + word * 4]))
                            e[0] = e[0] >> T.cast(half * 16 + lane % 4 * 4, "uint32")
                            both[0] = T.cast(_bits(kind, dtype, v, z[0], s[0], k, half + 2 * u, 0), "uint64") << T.cast(
                                (e[0] & T.uint32(3)) * T.uint32(16), "uint64"
                            )
                            both[0] = both[0] | T.cast(_bits(kind, dtype, v, z[0], s[0], k, half + 2 * u, 1), "uint64") << T.cast(
                                (e[0] >> T.uint32(2) & T.uint32(3)) * T.uint32(16), "uint64"
                            )
                            o[u * 2] = T.cast(both[0], "uint32")
                            o[u * 2 + 1] = T.cast(both[0] >> T.uint64(32), "uint32")
                        # Lanes q and q + 2 hold every other of four quartets: the one gives its second for the other's first.
                        for n in T.unroll(2):
                            x[n] = T.if_then_else(lane % 4 < 2, o[2 + n], o[n])
                            T.ptx["shfl_sync.bfly.b32"](x[n], x[n], T.uint32(2), T.uint32(0x1F), T.uint32(0xFFFFFFFF))
                            o[n] = T.if_then_else(lane % 4 < 2, o[n], x[n])
                            o[2 + n] = T.if_then_else(lane % 4 < 2, x[n], o[2 + n])
                    else:
                        for n in T.unroll(4):  # step of the 32 inputs, then register
                            o[n] = _bits(kind, dtype, v, z[0], s[0], k * 2 + n // 2, half + n % 2 * 2, 0)
                            o[n] = o[n] | _bits(kind, dtype, v, z[0], s[0], k * 2 + n // 2, half + n % 2 * 2, 1) << T.uint32(16)
                    eighth = T.meta_var(lane % 2 * 2 + lane % 4 // 2 if kind.sparse else lane % 4)
                    input_ = T.meta_var(at * PIECE + k * 32 + eighth * 8)
                    if there and input_ < depth:
                        T.ptx["st.global.v4.b32"](D.ptr_to([row, input_]), o[0], o[1], o[2], o[3])

    return group_expand


def _bits(kind: Form, dtype: str, v, zero, scale, step, register, number):
    """Of the dense weight, the 16 bits of a lane's first or second number of a register."""
    if kind.bits == 4:
        stored = v[step] >> T.cast(4 * register + 16 * number, "uint32") & T.uint32(15)
        value = T.cast(stored, "int32") - T.cast(zero, "int32")
    else:
        stored = v[step * 2 + register // 2] >> T.cast(8 * (register % 2) + 16 * number, "uint32") & T.uint32(255)
        value = T.cast(T.cast(stored, "int8"), "int32")
    real = T.cast(T.reinterpret(dtype, T.cast(scale, "uint16")), "float32")
    return T.cast(T.reinterpret("uint16", T.cast(T.cast(value, "float32") * real, dtype)), "uint32")
