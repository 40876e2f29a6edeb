"""float32 activations in tiles → groups of narrow numbers (see `groups`), for int8 with a scale and a zero point for each token.

One pass finds each token's largest and least input, another rounds: tokens lie in the lanes, so that neither needs anything across them,
and four int8 come together by shifts. Both are found among bit patterns. As integers with a sign those of positive numbers are the largest,
as integers without one those of negative numbers are, in the order of magnitudes; NaN is above all others of its sign.
"""

from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T, tirx
from sparsecc.precisions.int8 import HALF_SPAN, LEVELS


@dataclass(frozen=True)
class GroupSpec:
    """x: [tiles, features, tile] → int32 [tiles, groups, tile] and, for int8, scales float32 and zero points int32 [tiles, tile]:
    x ≈ scale · (stored byte - zero point).

    calibrated: the scale of every token is given, and zero in the middle; otherwise both are as `Int8` has them.
    """

    tiles: int
    features: int
    tile: int
    dtype: str
    calibrated: bool = False

    @property
    def outputs(self) -> list[tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of what the kernel writes."""
        found: list[tuple[tuple[int, ...], str]] = [((self.tiles, self.groups, self.tile), "int32")]
        tokens = (self.tiles, self.tile)
        return [*found, (tokens, "float32"), (tokens, "int32")] if self.dtype == "int8" else found

    @property
    def groups(self) -> int:
        return ceil_div(self.features, groups.SIZE[self.dtype])


LEAST = 0x0DA24260  # bits of 1e-30: tokens without a larger magnitude become zeros, their scale would have no inverse
MAGNITUDE = 0x7FFFFFFF
SIGN = 0x80000000
INFINITY = 0x7F800000
ROUNDER = 12582912.0  # 1.5·2²³: a float32 of this size has its last bit at 1, so that adding rounds, ties to even


def build(spec: GroupSpec, target: Target):
    """PrimFunc(x, given scale [1], groups, scales, zero points), without the last two for bfloat16. The given scale is read only where it
    is calibrated."""
    return _int8(spec, target) if spec.dtype == "int8" else _bfloat16(spec, target)


def is_nan(x):
    """By its bits: x != x is simplified away."""
    return T.bitwise_and(tirx.reinterpret("int32", x), T.int32(MAGNITUDE)) > T.int32(INFINITY)


def _bfloat16_bits(x):
    """The nearest bfloat16, ties to even, in the upper half; NaN stays NaN."""
    bits = tirx.reinterpret("int32", x)
    odd = T.bitwise_and(T.shift_right(bits, T.int32(16)), T.int32(1))
    return T.Select(is_nan(x), T.bitwise_or(bits, T.int32(0x00400000)), bits + T.int32(0x7FFF) + odd)


def lower_half(x):
    """x as bfloat16, the first of a group of two."""
    return T.bitwise_and(T.shift_right(_bfloat16_bits(x), T.int32(16)), T.int32(0xFFFF))


def upper_half(x):
    return T.bitwise_and(_bfloat16_bits(x), T.int32(-65536))


def rounded_pair(x, y):
    """Two numbers that are not negative, or NaN, as a group: fewer operations, ties to above."""
    half = T.uint32(0x8000)
    lower = T.shift_right(tirx.reinterpret("uint32", x) + half, T.uint32(16))
    return tirx.reinterpret("int32", T.bitwise_or(lower, T.bitwise_and(tirx.reinterpret("uint32", y) + half, T.uint32(0xFFFF0000))))


def half_span(top, bottom):
    """Half of the distance between a token's ends, which are bits; no infinity before one of them is. NaN where one of them is."""
    half = T.float32(0.5)
    return tirx.reinterpret("float32", top) * half - tirx.reinterpret("float32", bottom) * half


def has_values(half):
    """Whether a token has other values than zeros, or none (NaN)."""
    return T.bitwise_and(tirx.reinterpret("int32", half), T.int32(MAGNITUDE)) > T.int32(LEAST)


def zero_point(bottom, factor):
    """Of a byte without sign, 0 for a token without negative inputs; 0 to 255 whatever its values are."""
    least = tirx.reinterpret("float32", T.bitwise_and(bottom, T.uint32(MAGNITUDE)))
    return T.bitwise_and(tirx.reinterpret("int32", least * factor + T.float32(ROUNDER)), T.int32(0xFF))


def level(x, factor, zero, calibrated):
    """The rounded value in the lowest byte.  zero: `ROUNDER` and the zero point."""
    scaled = x * factor
    if calibrated:
        scaled = T.max(T.float32(-LEVELS), T.min(T.float32(LEVELS), scaled))
    return T.bitwise_and(tirx.reinterpret("int32", scaled + zero), T.int32(0xFF))


def _int8(spec: GroupSpec, target: Target):
    lanes, tiles, features, tile, calibrated = target.lanes, spec.tiles, spec.features, spec.tile, spec.calibrated
    vectors, whole, rest = tile // lanes, features // 4, features % 4
    offset, half_levels = groups.offset("int8", target), float(HALF_SPAN)

    def group(count, x, factor, zero):
        """The first `count` of four inputs in a lane; x(k) is the k-th."""
        total = level(x(0), factor, zero, calibrated)
        for place in range(1, count):
            total = T.bitwise_or(total, T.shift_left(level(x(place), factor, zero, calibrated), T.int32(8 * place)))
        return total

    @T.prim_func
    def group_tokens(
        X: T.Buffer((tiles, features, tile), "float32"),
        given: T.Buffer((1,), "float32"),
        Y: T.Buffer((tiles, spec.groups, tile), "int32"),
        S: T.Buffer((tiles, tile), "float32"),
        Z: T.Buffer((tiles, tile), "int32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(tiles * vectors):
            top = T.alloc_local((lanes,), "int32")
            bottom = T.alloc_local((lanes,), "uint32")
            half = T.alloc_local((lanes,), "float32")
            factor = T.alloc_local((lanes,), "float32")
            zero = T.alloc_local((lanes,), "float32")
            t: T.let = job // vectors
            at: T.let = job % vectors * lanes
            if not calibrated:
                for l in T.vectorized(lanes):
                    top[l] = T.int32(0)
                    bottom[l] = T.uint32(SIGN)
                for f in range(features):
                    for l in T.vectorized(lanes):
                        top[l] = T.max(top[l], tirx.reinterpret("int32", X[t, f, at + l]))
                    for l in T.vectorized(lanes):
                        bottom[l] = T.max(bottom[l], tirx.reinterpret("uint32", X[t, f, at + l]))
                for l in T.vectorized(lanes):
                    half[l] = half_span(top[l], bottom[l])
                for l in T.vectorized(lanes):
                    S[t, at + l] = T.Select(has_values(half[l]), half[l] * T.float32(1 / half_levels), T.float32(0))
                    factor[l] = T.Select(has_values(half[l]), T.float32(half_levels) / half[l], T.float32(0))
                for l in T.vectorized(lanes):
                    Z[t, at + l] = zero_point(bottom[l], factor[l]) + T.int32(offset - HALF_SPAN)
            else:
                for l in T.vectorized(lanes):
                    factor[l] = T.float32(1) / given[0]
                    S[t, at + l] = given[0]
                    Z[t, at + l] = T.int32(offset)
                for f in range(features):  # clipping loses NaN, and a token that has one has no value
                    for l in T.vectorized(lanes):
                        S[t, at + l] = T.Select(is_nan(X[t, f, at + l]), T.float32(np.nan), S[t, at + l])
            for l in T.vectorized(lanes):
                zero[l] = T.Cast("float32", Z[t, at + l]) + T.float32(ROUNDER)
            for g in range(whole):
                for l in T.vectorized(lanes):
                    Y[t, g, at + l] = group(4, lambda k: X[t, g * 4 + k, at + l], factor[l], zero[l])
            if rest > 0:
                for l in T.vectorized(lanes):
                    Y[t, whole, at + l] = group(rest, lambda k: X[t, whole * 4 + k, at + l], factor[l], zero[l])

    return group_tokens


def _bfloat16(spec: GroupSpec, target: Target):
    lanes, tiles, features, tile = target.lanes, spec.tiles, spec.features, spec.tile
    vectors, whole, rest = tile // lanes, features // 2, features % 2

    @T.prim_func
    def group_tokens(
        X: T.Buffer((tiles, features, tile), "float32"),
        given: T.Buffer((1,), "float32"),
        Y: T.Buffer((tiles, spec.groups, tile), "int32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(tiles * vectors):
            t: T.let = job // vectors
            at: T.let = job % vectors * lanes
            for g in range(whole):
                for l in T.vectorized(lanes):
                    Y[t, g, at + l] = T.bitwise_or(lower_half(X[t, g * 2, at + l]), upper_half(X[t, g * 2 + 1, at + l]))
            if rest > 0:
                for l in T.vectorized(lanes):
                    Y[t, whole, at + l] = lower_half(X[t, whole * 2, at + l])

    return group_tokens
