"""Rows of Q, K and V that warps bring from where a model wrote them to where boxes read them: in another order, or rounded to int8.

Warps take parts of heads, one head after the other, and count what of each is done, so that others can read it meanwhile. A lane copies 16
bytes of a row, so that a warp has two or four rows at once. Steps of int8 are one for each block of rows: the largest number's distance
from zero is 127 of them (PAROAttention, Zhao et al. 2025).
"""

# pyright: reportInvalidTypeForm=false
# `name: T.int32 = ..` is how TVMScript names a register.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.pieces.units import ALL
from sparsecc.codegen.cuda.pieces.widen import half
from sparsecc.codegen.cuda.script import T

_ROWS = 32  # of a part that is copied; a part that is rounded is a block
_LEVELS = 127
_MAGIC = 12582912.0  # 1.5 · 2^23: a float32 beside it holds an integer in its low bits
_PAIR = {"bfloat16": "bf16x2", "float16": "f16x2"}
_AHEAD = 4  # loads in flight


def brings(spec: BlockAttentionSpec) -> bool:
    """Whether rows have to be brought."""
    return spec.ordered or spec.int8


def counters(spec: BlockAttentionSpec) -> int:
    """How many numbers C has: what of each head was brought, and what was begun of all."""
    return spec.batch * spec.heads + 1


def parts(spec: BlockAttentionSpec) -> int:
    """Of a head."""
    return -(-spec.tokens // _at_once(spec))


def given(spec: BlockAttentionSpec, name: str, head: Any, token: Any) -> tuple[Any, ...]:
    """Indices of a row as the model wrote it. name: Q, K or V.  head: of queries, counted over the batch."""
    own = head % spec.heads if name == "Q" else head % spec.heads // (spec.heads // spec.kv_heads)
    return (head // spec.heads, *((token, own) if name in spec.tokens_first else (own, token)))


def brought(spec: BlockAttentionSpec, _: str, head: Any, place: Any) -> tuple[Any, ...]:
    """Indices of a row where it was brought to."""
    return (head // spec.heads, head % spec.heads, place)


def bringer(spec: BlockAttentionSpec) -> Callable[..., Any]:
    """An inline (QR, KR, VR, QO, KO, VO, QS, KS, P, C, lane) by all lanes of a warp, for `block_attention`, whose buffers these are."""
    depth, heads, at_once, int8 = spec.head_dim, spec.heads, _at_once(spec), spec.int8
    copied, rounded = _copier(depth), _rounder(depth, spec.block, spec.tokens, spec.dtype)
    every, lanes = spec.batch * heads * parts(spec), depth // 8

    def source(name, head, order, place):
        return given(spec, name, head, order[head % heads, place] if spec.ordered else place)

    @T.inline
    def move(QR, KR, VR, QO, KO, VO, P, token, head, first, lane):
        """32 rows into their order; of V alone where the others are rounded."""
        token[0] = 0
        if first + lane < spec.tokens:
            token[0] = P[head % heads, first + lane]
        for n in T.unroll(lanes):
            row = T.meta_var(n * (32 // lanes) + lane // lanes)
            T.ptx["shfl_sync.idx.b32"](token[1], token[0], T.cast(row, "uint32"), T.uint32(0x1F), T.uint32(ALL))
            if first + row < spec.tokens:
                to = T.meta_var(brought(spec, "", head, first + row))
                if not int8:
                    copied(QR, given(spec, "Q", head, token[1]), QO, to, lane)
                    copied(KR, given(spec, "K", head, token[1]), KO, to, lane)
                copied(VR, given(spec, "V", head, token[1]), VO, to, lane)

    @T.inline
    def round(name, source_buffer, target, steps, P, head, part, lane):
        at = T.meta_var(functools.partial(source, name, head, P))
        to = T.meta_var(functools.partial(brought, spec, name, head))
        rounded(source_buffer, at, target, to, steps.ptr_to([head // heads, head % heads, part]), part * at_once, lane)

    @T.inline
    def bring(QR, KR, VR, QO, KO, VO, QS, KS, P, C, lane):
        number = T.alloc_local([1], "int32")
        token = T.alloc_local([2], "int32")  # of the lane's row, and of the one that it copies
        number[0] = 0
        while number[0] < every:
            if lane == 0:
                T.ptx["atom.relaxed.gpu.global.add.s32"](number[0], C.ptr_to([counters(spec) - 1]), 1)
            T.ptx["shfl_sync.idx.b32"](number[0], number[0], T.uint32(0), T.uint32(0x1F), T.uint32(ALL))
            if number[0] < every:
                head: T.int32 = number[0] // parts(spec)
                part: T.int32 = number[0] % parts(spec)
                if int8:
                    round("Q", QR, QO, QS, P, head, part, lane)
                    round("K", KR, KO, KS, P, head, part, lane)
                if spec.ordered:
                    moved: T.int32 = 0
                    while moved < at_once:
                        move(QR, KR, VR, QO, KO, VO, P, token, head, part * at_once + moved, lane)
                        moved = moved + _ROWS
                T.ptx["fence.proxy.async.global"]()  # boxes are read another way than rows are written
                T.ptx["fence.acq_rel.gpu"]()
                T.cuda.warp_sync()
                if lane == 0:
                    T.ptx["red.release.gpu.global.add.s32"](C.ptr_to([head]), 1)

    return bring


def _at_once(spec: BlockAttentionSpec) -> int:
    return spec.block if spec.int8 else _ROWS


def _copier(depth: int) -> Callable[..., Any]:
    """An inline (source, at, target, to, lane): this lane's part of a row. at, to: indices of the row."""

    @T.inline
    def copy(source, at, target, to, lane):
        chunk = T.alloc_local([4], "uint32")
        column = T.meta_var(lane % (depth // 8) * 8)
        T.ptx["ld.global.v4.b32"](chunk[0], chunk[1], chunk[2], chunk[3], source.ptr_to([*at, column]))
        T.ptx["st.global.v4.b32"](target.ptr_to([*to, column]), chunk[0], chunk[1], chunk[2], chunk[3])

    return copy


def _rounder(depth: int, block: int, tokens: int, dtype: str) -> Callable[..., Any]:
    """An inline (source, at, target, to, step, first, lane) by all lanes of a warp: rows from `first` to the end of their block, as int8.
    at, to: of a place → indices of its row in source and target.  step: where what a number of 1 is worth goes, float32."""
    lanes, pair = depth // 8, _PAIR[dtype]
    rows = 32 // lanes
    rounds = block // rows // _AHEAD

    @T.inline
    def load(source, at, chunk, first, part, lane):
        column = T.meta_var(lane % lanes * 8)
        for a in T.unroll(_AHEAD):
            place = T.meta_var(first + (part * _AHEAD + a) * rows + lane // lanes)
            for i in T.unroll(4):
                chunk[a * 4 + i] = T.uint32(0)
            if place < tokens:
                T.ptx["ld.global.v4.b32"](
                    chunk[a * 4], chunk[a * 4 + 1], chunk[a * 4 + 2], chunk[a * 4 + 3], source.ptr_to([*at(place), column])
                )

    @T.inline
    def rounded(source, at, target, to, step, first, lane):
        chunk = T.alloc_local([4 * _AHEAD], "uint32")
        largest = T.alloc_local([3], "uint32")  # pairs of 16 bits: so far, and another's
        most = T.alloc_local([2], "float32")
        integer = T.alloc_local([4], "float32")
        word = T.alloc_local([2], "uint32")
        part = T.alloc_local([1], "int32")  # a loop that is not unrolled
        largest[0] = T.uint32(0)
        part[0] = 0
        while part[0] < rounds:
            load(source, at, chunk, first, part[0], lane)
            for i in T.unroll(4 * _AHEAD):
                T.ptx[f"max.NaN.{pair}"](largest[0], largest[0], chunk[i] & T.uint32(0x7FFF7FFF))
            part[0] = part[0] + 1
        for n in T.unroll(5):
            T.ptx["shfl_sync.bfly.b32"](largest[1], largest[0], T.uint32(1 << n), T.uint32(0x1F), T.uint32(ALL))
            T.ptx[f"max.NaN.{pair}"](largest[0], largest[0], largest[1])
        largest[1] = T.shift_right(largest[0], T.uint32(16))
        T.ptx[f"max.NaN.{pair}"](largest[0], largest[0], largest[1])
        most[0] = half(largest[0], 0, dtype)
        if lane == 0:  # a step of nothing would make what is hidden worth nothing, too
            T.ptx["st.global.f32"](step, T.Select(most[0] == T.float32(0), T.float32(1), most[0] / T.float32(_LEVELS)))
        most[1] = T.Select(most[0] == T.float32(0), T.float32(0), T.float32(_LEVELS) / most[0])
        part[0] = 0
        while part[0] < rounds:
            load(source, at, chunk, first, part[0], lane)
            for a in T.unroll(_AHEAD):
                place = T.meta_var(first + (part[0] * _AHEAD + a) * rows + lane // lanes)
                if place < tokens:
                    for w in T.unroll(2):
                        for i in T.unroll(4):  # the low byte of the float32 is the integer's
                            integer[i] = half(chunk[a * 4 + w * 2 + i // 2], i % 2, dtype) * most[1] + T.float32(_MAGIC)
                        word[w] = _bytes_of(integer)
                    T.ptx["st.global.v2.b32"](target.ptr_to([*to(place), lane % lanes * 8]), word[0], word[1])
            part[0] = part[0] + 1

    return rounded


def _bytes_of(numbers: Any) -> Any:
    """The low bytes of four words as one."""
    low = [T.reinterpret("uint32", numbers[i]) & T.uint32(0xFF) for i in range(4)]
    return low[0] | (low[1] << T.uint32(8)) | (low[2] << T.uint32(16)) | (low[3] << T.uint32(24))
