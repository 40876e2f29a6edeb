"""A few float32 tokens → groups of narrow numbers, as `group_tokens` makes them of many: features lie in the lanes here.

Tokens are [tokens, features, 1], as a model has them, and groups [tokens, groups, 1].
"""

import numpy as np

from sparsecc.codegen.cpu.operators.group_tokens import (
    ROUNDER,
    SIGN,
    GroupSpec,
    half_span,
    has_values,
    is_nan,
    level,
    lower_half,
    upper_half,
    zero_point,
)
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T, tirx
from sparsecc.precisions.int8 import HALF_SPAN


def build(spec: GroupSpec, target: Target):
    """PrimFunc(x, given scale [1], groups, scales, zero points), all as for `group_tokens`. spec: with a tile of one token."""
    return _int8(spec, target) if spec.dtype == "int8" else _bfloat16(spec)


def _bfloat16(spec: GroupSpec):
    tokens, features, pairs, rest = spec.tiles, spec.features, spec.features // 2, spec.features % 2

    @T.prim_func
    def group_features(
        X: T.Buffer((tokens, features, 1), "float32"),
        given: T.Buffer((1,), "float32"),
        Y: T.Buffer((tokens, spec.groups, 1), "int32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for t in T.parallel(tokens):
            for g in range(pairs):
                Y[t, g, 0] = T.bitwise_or(lower_half(X[t, g * 2, 0]), upper_half(X[t, g * 2 + 1, 0]))
            if rest > 0:
                Y[t, pairs, 0] = lower_half(X[t, pairs * 2, 0])

    return group_features


def _int8(spec: GroupSpec, target: Target):
    lanes, tokens, features, calibrated = target.lanes, spec.tiles, spec.features, spec.calibrated
    vectors, rest = features // lanes, features % lanes
    words, last_words = lanes // 4, spec.groups - vectors * (lanes // 4)
    word_type = "int32" if words == 1 else f"int32x{words}"
    offset, half_levels = groups.offset("int8", target), float(HALF_SPAN)

    def signed(x):
        return tirx.reinterpret("int32", x)

    def unsigned(x):
        return tirx.reinterpret("uint32", x)

    @T.prim_func
    def group_features(
        x: T.Buffer((tokens, features, 1), "float32"),
        given: T.Buffer((1,), "float32"),
        y: T.Buffer((tokens, spec.groups, 1), "int32"),
        S: T.Buffer((tokens, 1), "float32"),
        Z: T.Buffer((tokens, 1), "int32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((tokens * features,), "float32", data=x.data)
        Y = T.decl_buffer((tokens * spec.groups,), "int32", data=y.data)
        for t in T.parallel(tokens):
            tops = T.alloc_local((lanes,), "int32")
            bottoms = T.alloc_local((lanes,), "uint32")
            top = T.alloc_local((1,), "int32")
            bottom = T.alloc_local((1,), "uint32")
            half = T.alloc_local((1,), "float32")
            factor = T.alloc_local((1,), "float32")
            zero = T.alloc_local((1,), "float32")
            narrow = T.alloc_local((lanes,), "int32")
            for l in T.vectorized(lanes):
                tops[l] = T.int32(0)
                bottoms[l] = T.uint32(SIGN)
            for v in range(vectors):
                for l in T.vectorized(lanes):
                    tops[l] = T.max(tops[l], signed(X[t * features + v * lanes + l]))
                for l in T.vectorized(lanes):
                    bottoms[l] = T.max(bottoms[l], unsigned(X[t * features + v * lanes + l]))
            top[0] = T.int32(0)
            bottom[0] = T.uint32(SIGN)
            for l in T.unroll(lanes):
                top[0] = T.max(top[0], tops[l])
                bottom[0] = T.max(bottom[0], bottoms[l])
            for r in range(rest):
                top[0] = T.max(top[0], signed(X[t * features + vectors * lanes + r]))
                bottom[0] = T.max(bottom[0], unsigned(X[t * features + vectors * lanes + r]))
            half[0] = half_span(top[0], bottom[0])
            if not calibrated:
                S[t, 0] = T.Select(has_values(half[0]), half[0] * T.float32(1 / half_levels), T.float32(0))
                factor[0] = T.Select(has_values(half[0]), T.float32(half_levels) / half[0], T.float32(0))
                Z[t, 0] = zero_point(bottom[0], factor[0]) + T.int32(offset - HALF_SPAN)
            else:  # clipping loses NaN, and a token that has one has no value
                S[t, 0] = T.Select(is_nan(half[0]), T.float32(np.nan), given[0])
                factor[0] = T.float32(1) / given[0]
                Z[t, 0] = T.int32(offset)
            zero[0] = T.Cast("float32", Z[t, 0]) + T.float32(ROUNDER)
            for v in range(vectors):
                for l in T.vectorized(lanes):
                    narrow[l] = level(X[t * features + v * lanes + l], factor[0], zero[0], calibrated)
                Y[T.ramp(t * spec.groups + v * words, 1, words) if words > 1 else t * spec.groups + v] = tirx.reinterpret(
                    word_type, T.Cast(f"uint8x{lanes}", narrow[T.ramp(0, 1, lanes)])
                )
            for w in range(last_words):
                Y[t * spec.groups + vectors * words + w] = T.int32(0)
            for r in range(rest):
                Y[t * spec.groups + vectors * words + r // 4] = T.bitwise_or(
                    Y[t * spec.groups + vectors * words + r // 4],
                    T.shift_left(level(X[t * features + vectors * lanes + r], factor[0], zero[0], calibrated), 8 * (r % 4)),
                )

    return group_features
