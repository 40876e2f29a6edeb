"""q, k and v copied into blocks in the order of each head, in the number format that `block_attention` multiplies.

Queries are transposed, so that they lie in the vector lanes, keys and values row by row. int8 has one scale for each block of queries and
of keys (PAROAttention, Zhao et al. 2025): the order makes the tokens of a block alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsecc.attention.rounding import LEVELS
from sparsecc.codegen.cpu.operators.group_tokens import LEAST, MAGNITUDE, ROUNDER, lower_half, upper_half
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.pieces.math import LOG2E
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T, tirx

if TYPE_CHECKING:
    from sparsecc.codegen.cpu.operators.block_attention import BlockAttentionSpec


def outputs(spec: BlockAttentionSpec, target: Target) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and dtypes of Q, K and V in blocks; for int8 then scales of blocks of queries and of keys, and what sums begin with."""
    each, narrow = (spec.batch * spec.heads, spec.blocks), spec.dtype != "float32"
    found = [
        ((*each, spec.depth, spec.tile(target)), "int32" if narrow else "float32"),
        ((*each, spec.block, spec.depth), "int32" if narrow else "float32"),
        ((*each, spec.value_depth, spec.value_dim), spec.stored_values),
    ]
    return [*found, (each, "float32"), (each, "float32"), ((*each, spec.block), "int32")] if spec.dtype == "int8" else found


def build(spec: BlockAttentionSpec, target: Target) -> Any:
    """PrimFunc(q, k, v, places, *outputs). Q is scaled by scale · log₂ e, in int8 its scales are."""
    parts = {"float32": _float32, "bfloat16": _bfloat16, "int8": _int8}
    return parts[spec.dtype](spec, target)


def _float32(spec: BlockAttentionSpec, target: Target) -> Any:
    batch, heads, kv_heads, tokens, blocks, block = spec.batch, spec.heads, spec.kv_heads, spec.tokens, spec.blocks, spec.block
    dim, value_dim, factor, shared = spec.head_dim, spec.value_dim, spec.scale * LOG2E, spec.heads // spec.kv_heads
    (q_shape, _), (k_shape, _), (v_shape, _) = outputs(spec, target)
    tile = spec.tile(target)

    @T.prim_func
    def block_attention_gather(
        q: T.Buffer((batch, heads, tokens, dim), "float32"),
        k: T.Buffer((batch, kv_heads, tokens, dim), "float32"),
        v: T.Buffer((batch, kv_heads, tokens, value_dim), "float32"),
        places: T.Buffer((heads, blocks * block), "int32"),
        Q: T.Buffer(q_shape, "float32"),
        K: T.Buffer(k_shape, "float32"),
        V: T.Buffer(v_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(batch * heads * blocks):
            b: T.let = job // blocks // heads
            h: T.let = job // blocks % heads
            i: T.let = job % blocks
            for j in range(block):
                token: T.let = places[h, i * block + j]
                for d in T.vectorized(dim):
                    K[b * heads + h, i, j, d] = k[b, h // shared, token, d]
                for d in T.vectorized(value_dim):
                    V[b * heads + h, i, j, d] = v[b, h // shared, token, d]
            for j in range(tile):
                query: T.let = places[h, i * block + T.min(j, block - 1)]
                for d in range(dim):
                    Q[b * heads + h, i, d, j] = q[b, h, query, d] * T.float32(factor)

    return block_attention_gather


def _bfloat16(spec: BlockAttentionSpec, target: Target) -> Any:
    batch, heads, kv_heads, tokens, blocks, block = spec.batch, spec.heads, spec.kv_heads, spec.tokens, spec.blocks, spec.block
    dim, value_dim, factor, shared = spec.head_dim, spec.value_dim, spec.scale * LOG2E, spec.heads // spec.kv_heads
    (q_shape, _), (k_shape, _), (v_shape, _) = outputs(spec, target)
    tile, depth, odd = spec.tile(target), spec.depth, dim % 2 == 1

    @T.prim_func
    def block_attention_gather(
        q: T.Buffer((batch, heads, tokens, dim), "float32"),
        k: T.Buffer((batch, kv_heads, tokens, dim), "float32"),
        v: T.Buffer((batch, kv_heads, tokens, value_dim), "float32"),
        places: T.Buffer((heads, blocks * block), "int32"),
        Q: T.Buffer(q_shape, "int32"),
        K: T.Buffer(k_shape, "int32"),
        V: T.Buffer(v_shape, "int32"),
    ):
        T.func_attr({"tirx.noalias": True})
        halves = T.decl_buffer((batch * heads, blocks, block, depth * 2), "uint16", data=K.data)
        for job in T.parallel(batch * heads * blocks):
            b: T.let = job // blocks // heads
            h: T.let = job // blocks % heads
            i: T.let = job % blocks
            for j in range(block):
                token: T.let = places[h, i * block + j]
                for d in T.vectorized(dim):
                    halves[b * heads + h, i, j, d] = T.Cast("uint16", lower_half(k[b, h // shared, token, d]))
                if odd:
                    halves[b * heads + h, i, j, dim] = T.uint16(0)
            _pair_values(V, v, places, b, h, i, spec)
            for j in range(tile):
                query: T.let = places[h, i * block + T.min(j, block - 1)]
                for d in range(dim // 2):
                    Q[b * heads + h, i, d, j] = T.bitwise_or(
                        lower_half(q[b, h, query, d * 2] * T.float32(factor)), upper_half(q[b, h, query, d * 2 + 1] * T.float32(factor))
                    )
                if odd:
                    Q[b * heads + h, i, dim // 2, j] = lower_half(q[b, h, query, dim - 1] * T.float32(factor))

    return block_attention_gather


@T.inline
def _pair_values(V, v, places, b, h, i, spec):
    """Rows of two neighbouring keys, a last one without a neighbour beside zeros."""
    for j in range(spec.block // 2):
        first: T.let = places[h, i * spec.block + j * 2]
        second: T.let = places[h, i * spec.block + j * 2 + 1]
        for d in T.vectorized(spec.value_dim):
            V[b * spec.heads + h, i, j, d] = T.bitwise_or(
                lower_half(v[b, h // (spec.heads // spec.kv_heads), first, d]),
                upper_half(v[b, h // (spec.heads // spec.kv_heads), second, d]),
            )
    if spec.block % 2 == 1:
        last: T.let = places[h, i * spec.block + spec.block - 1]
        for d in T.vectorized(spec.value_dim):
            V[b * spec.heads + h, i, spec.block // 2, d] = lower_half(v[b, h // (spec.heads // spec.kv_heads), last, d])


def _int8(spec: BlockAttentionSpec, target: Target) -> Any:
    batch, heads, kv_heads, tokens, blocks, block = spec.batch, spec.heads, spec.kv_heads, spec.tokens, spec.blocks, spec.block
    dim, value_dim, factor, shared = spec.head_dim, spec.value_dim, spec.scale * LOG2E, spec.heads // spec.kv_heads
    (q_shape, _), (k_shape, _), (v_shape, _), (each, _), _, (starts_shape, _) = outputs(spec, target)
    tile, depth, levels, offset = spec.tile(target), spec.depth, float(LEVELS), groups.offset("int8", target)
    paired, stored = spec.values == "bfloat16", spec.stored_values

    def magnitude(x):
        return T.bitwise_and(tirx.reinterpret("int32", x), T.int32(MAGNITUDE))

    def step(top):
        """Of a block whose largest magnitude has these bits; NaN where it holds one."""
        return T.Select(top > T.int32(LEAST), tirx.reinterpret("float32", top) * T.float32(1 / levels), T.float32(0))

    def inverse(top):
        return T.Select(top > T.int32(LEAST), T.float32(levels) / tirx.reinterpret("float32", top), T.float32(0))

    def rounded(x, added):
        return T.bitwise_and(tirx.reinterpret("int32", x + T.float32(ROUNDER + added)), T.int32(0xFF))

    def query_byte(q, b, h, query, d, factor):
        return rounded(T.Select(d < dim, q[b, h, query, T.min(d, dim - 1)], T.float32(0)) * factor, offset)

    @T.prim_func
    def block_attention_gather(
        q: T.Buffer((batch, heads, tokens, dim), "float32"),
        k: T.Buffer((batch, kv_heads, tokens, dim), "float32"),
        v: T.Buffer((batch, kv_heads, tokens, value_dim), "float32"),
        places: T.Buffer((heads, blocks * block), "int32"),
        Q: T.Buffer(q_shape, "int32"),
        K: T.Buffer(k_shape, "int32"),
        V: T.Buffer(v_shape, stored),
        q_scales: T.Buffer(each, "float32"),
        k_scales: T.Buffer(each, "float32"),
        starts: T.Buffer(starts_shape, "int32"),
    ):
        T.func_attr({"tirx.noalias": True})
        narrow = T.decl_buffer((batch * heads, blocks, block, depth * 4), "int8", data=K.data)
        for job in T.parallel(batch * heads * blocks):
            tops = T.alloc_local((2 * dim,), "int32")
            top = T.alloc_local((2,), "int32")
            sums = T.alloc_local((dim,), "int32")
            b: T.let = job // blocks // heads
            h: T.let = job // blocks % heads
            i: T.let = job % blocks
            for d in T.vectorized(2 * dim):
                tops[d] = T.int32(0)
            for j in range(T.min(block, tokens - i * block)):
                token: T.let = places[h, i * block + j]
                for d in T.vectorized(dim):
                    tops[d] = T.max(tops[d], magnitude(q[b, h, token, d]))
                for d in T.vectorized(dim):
                    tops[dim + d] = T.max(tops[dim + d], magnitude(k[b, h // shared, token, d]))
            for n in T.unroll(2):
                top[n] = T.int32(0)
                for d in range(dim):
                    top[n] = T.max(top[n], tops[n * dim + d])
            q_scales[b * heads + h, i] = step(top[0]) * T.float32(factor)
            k_scales[b * heads + h, i] = step(top[1])
            for j in range(block):
                token: T.let = places[h, i * block + j]
                for d in T.vectorized(dim):
                    sums[d] = T.shift_right(
                        T.shift_left(rounded(k[b, h // shared, token, d] * inverse(top[1]), 0), T.int32(24)), T.int32(24)
                    )
                for d in T.vectorized(dim):
                    narrow[b * heads + h, i, j, d] = T.Cast("int8", sums[d])
                for d in range(depth * 4 - dim):
                    narrow[b * heads + h, i, j, dim + d] = T.int8(0)
                starts[b * heads + h, i, j] = T.int32(0)
                for d in range(dim):
                    starts[b * heads + h, i, j] = starts[b * heads + h, i, j] - T.int32(offset) * sums[d]
            if paired:
                _pair_values(V, v, places, b, h, i, spec)
            else:
                for j in range(block):
                    for d in T.vectorized(value_dim):
                        V[b * heads + h, i, j, d] = v[b, h // shared, places[h, i * block + j], d]
            for j in range(tile):
                query: T.let = places[h, i * block + T.min(j, block - 1)]
                for d in range(depth):
                    Q[b * heads + h, i, d, j] = T.bitwise_or(
                        T.bitwise_or(
                            query_byte(q, b, h, query, d * 4, inverse(top[0])),
                            T.shift_left(query_byte(q, b, h, query, d * 4 + 1, inverse(top[0])), T.int32(8)),
                        ),
                        T.bitwise_or(
                            T.shift_left(query_byte(q, b, h, query, d * 4 + 2, inverse(top[0])), T.int32(16)),
                            T.shift_left(query_byte(q, b, h, query, d * 4 + 3, inverse(top[0])), T.int32(24)),
                        ),
                    )

    return block_attention_gather
