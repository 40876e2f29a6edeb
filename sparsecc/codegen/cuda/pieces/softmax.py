"""Softmax of scores that come tile by tile, in the registers of a warpgroup's threads as products leave them (`wgmma`).

Of a tile [64 queries, width] a thread has width / 2 scores, of two queries: score i is of query i % 4 // 2, and of a key among the eight
from i // 4 · 8 on. Maxima and sums of a query are of all tiles so far; sums are a thread's own until the end. Where maxima grow, `shrink`
says by what the sums before are multiplied (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).

Sums of products of int8 begin at 1.5 · 2^23, so that read as float32 they are the integers beside it: what scales them takes that away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsecc.codegen.cuda.pieces.units import ALL
from sparsecc.codegen.cuda.script import T

LOWEST = -3.0e38  # below every score, for keys that are hidden; a difference of two of them is finite
BEGIN = 0x4B400000  # 1.5 · 2^23 as float32; sums of products of int8 stay below 2^22
_LEAST = 1e-30  # that a score of 1 is worth: with less, LOWEST would not be below every score
_BEGIN = 1.5 * 2.0**23


def online(width: int, factor: float, masked: bool) -> Callable[..., Any]:
    """An inline (s, most, weight, shrink), by all threads: s becomes exp2(factor · (s - most)). masked: a query may have seen no key."""
    settle = _settling(factor, masked)

    @T.inline
    def soften(s, most, weight, shrink):
        new = T.alloc_local([2], "float32")
        for h in T.unroll(2):
            new[h] = most[h]
            for i in T.unroll(width // 4):
                new[h] = T.max(new[h], s[i // 2 * 4 + h * 2 + i % 2])
            settle(h, new, most, weight, shrink)
        for i in T.unroll(width // 2):
            s[i] = s[i] * T.float32(factor) - new[i % 4 // 2]
            T.ptx["ex2.approx.ftz.f32"](s[i], s[i])  # `exp2` takes four instructions, for numbers near the smallest ones
            weight[i % 4 // 2] = weight[i % 4 // 2] + s[i]

    return soften


def online_int8(width: int, shared: int, masked: bool) -> Callable[..., Any]:
    """An inline (s, worth, most, weight, shrink): the same of sums of products of int8 that began at BEGIN, read as float32. shared: keys
    with one step.  worth: of a score of 1, in powers of 2, for each `shared` keys; `most` is in powers of 2, too."""
    settle = _settling(1.0, masked)

    @T.inline
    def soften(s, worth, most, weight, shrink):
        new = T.alloc_local([2], "float32")
        top = T.alloc_local([1], "float32")
        less = T.alloc_local([2 * width // shared], "float32")
        for part in T.unroll(width // shared):
            worth[part] = T.Select(worth[part] < T.float32(_LEAST), T.float32(_LEAST), worth[part])
        for h in T.unroll(2):
            new[h] = most[h]
            for part in T.unroll(width // shared):
                top[0] = T.float32(LOWEST)
                for i in T.unroll(shared // 4):
                    top[0] = T.max(top[0], s[part * (shared // 2) + i // 2 * 4 + h * 2 + i % 2])
                seen = T.meta_var((top[0] - T.float32(_BEGIN)) * worth[part])
                new[h] = T.max(new[h], T.Select(top[0] == T.float32(LOWEST), T.float32(LOWEST), seen))
            settle(h, new, most, weight, shrink)
            for part in T.unroll(width // shared):
                less[part * 2 + h] = worth[part] * T.float32(_BEGIN) + new[h]
        for i in T.unroll(width // 2):
            s[i] = s[i] * worth[i * 2 // shared] - less[i * 2 // shared * 2 + i % 4 // 2]
            T.ptx["ex2.approx.ftz.f32"](s[i], s[i])
            weight[i % 4 // 2] = weight[i % 4 // 2] + s[i]

    return soften


def _settling(factor: float, masked: bool) -> Callable[..., Any]:
    """An inline (h, new, most, weight, shrink) that brings the maxima of query h's threads together; `new` is then what is subtracted."""

    @T.inline
    def settle(h, new, most, weight, shrink):
        other = T.alloc_local([1], "float32")
        for n in T.unroll(2):
            T.ptx["shfl_sync.bfly.b32"](other[0], new[h], T.uint32(1 << n), T.uint32(0x1F), T.uint32(ALL))
            new[h] = T.max(new[h], other[0])
        shrink[h] = T.exp2((most[h] - new[h]) * T.float32(factor))
        most[h] = new[h]
        new[h] = new[h] * T.float32(factor)
        if masked:  # nothing is seen yet: every exponential is 0, not that of a rounding error
            new[h] = T.Select(most[h] == T.float32(LOWEST), T.float32(0), new[h])
        weight[h] = weight[h] * shrink[h]

    return settle
