"""A few float32 tokens → groups of narrow numbers, as `group_tokens` makes them of many: features lie in the lanes here.

Tokens are [tokens, features, 1], as a model has them, and groups [tokens, groups, 1].
"""

import numpy as np

from sparsecc.codegen.cpu.operators.group_tokens import LEAST, MAGNITUDE, ROUNDER, GroupSpec, is_nan, lower_half, upper_half
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T, tirx


def build(spec: GroupSpec, target: Target):
    """PrimFunc(x, given scale [1], groups, scales), all as for `group_tokens`. spec: with a tile of one token."""
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
    levels = float(groups.LEVELS)
    rounder = ROUNDER + groups.offset("int8", target)

    def magnitude(x):
        """Bits without the sign, which compare as magnitudes do."""
        return T.bitwise_and(tirx.reinterpret("int32", x), T.int32(MAGNITUDE))

    def level(x, factor):
        """In the lowest byte."""
        scaled = x * factor
        if calibrated:
            scaled = T.max(T.float32(-levels), T.min(T.float32(levels), scaled))
        return T.bitwise_and(tirx.reinterpret("int32", scaled + T.float32(rounder)), T.int32(0xFF))

    @T.prim_func
    def group_features(
        x: T.Buffer((tokens, features, 1), "float32"),
        given: T.Buffer((1,), "float32"),
        y: T.Buffer((tokens, spec.groups, 1), "int32"),
        S: T.Buffer((tokens, 1), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((tokens * features,), "float32", data=x.data)
        Y = T.decl_buffer((tokens * spec.groups,), "int32", data=y.data)
        for t in T.parallel(tokens):
            tops = T.alloc_local((lanes,), "int32")
            top = T.alloc_local((1,), "int32")
            factor = T.alloc_local((1,), "float32")
            narrow = T.alloc_local((lanes,), "int32")
            for l in T.vectorized(lanes):
                tops[l] = T.int32(0)
            for v in range(vectors):
                for l in T.vectorized(lanes):
                    tops[l] = T.max(tops[l], magnitude(X[t * features + v * lanes + l]))
            top[0] = T.int32(0)
            for l in T.unroll(lanes):
                top[0] = T.max(top[0], tops[l])
            for r in range(rest):
                top[0] = T.max(top[0], magnitude(X[t * features + vectors * lanes + r]))
            if not calibrated:
                S[t, 0] = T.Select(top[0] > T.int32(LEAST), tirx.reinterpret("float32", top[0]) * T.float32(1 / levels), T.float32(0))
                factor[0] = T.Select(top[0] > T.int32(LEAST), T.float32(levels) / tirx.reinterpret("float32", top[0]), T.float32(0))
            else:  # clipping loses NaN, and a token that has one has no value
                S[t, 0] = T.Select(is_nan(tirx.reinterpret("float32", top[0])), T.float32(np.nan), given[0])
                factor[0] = T.float32(1) / given[0]
            for v in range(vectors):
                for l in T.vectorized(lanes):
                    narrow[l] = level(X[t * features + v * lanes + l], factor[0])
                Y[T.ramp(t * spec.groups + v * words, 1, words) if words > 1 else t * spec.groups + v] = tirx.reinterpret(
                    word_type, T.Cast(f"uint8x{lanes}", narrow[T.ramp(0, 1, lanes)])
                )
            for w in range(last_words):
                Y[t * spec.groups + vectors * words + w] = T.int32(0)
            for r in range(rest):
                Y[t * spec.groups + vectors * words + r // 4] = T.bitwise_or(
                    Y[t * spec.groups + vectors * words + r // 4],
                    T.shift_left(level(X[t * features + vectors * lanes + r], factor[0]), 8 * (r % 4)),
                )

    return group_features
