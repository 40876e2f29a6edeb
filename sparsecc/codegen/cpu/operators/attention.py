"""softmax(scale · q kᵀ + mask) v on tokens in the vector lanes: queries in lanes, so that the softmax needs no sum across them.

Each job is one head of one tile of queries. Scores lie transposed, [keys, queries], in a strip of keys × tile × 4 bytes.

bfloat16: q and k come in groups of head_dim (`group_tokens`), v in groups of keys (`pair_tokens`), and what the softmax gives is rounded to
such groups in place; sums are float32. On Zen 4 1.7 times as fast as float32.
"""

from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cpu.operators.group_tokens import rounded_pair
from sparsecc.codegen.cpu.pieces import groups, math
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T, tirx

MASKED = -3.4028234663852886e38  # the lowest finite score: a row in which every key has it gets their mean, as in softmax


@dataclass(frozen=True)
class AttentionSpec:
    """q: [batch·padded_queries/tile, heads·head_dim, tile], k and v likewise with key_tile and kv_heads, result like q with value_dim.

    mask: its shape [batch | 1, heads | 1, queries | 1, keys], added to the scaled scores; None without one.
    causal: query i sees keys j ≤ i, whatever the mask gives the others.  A query all of whose scores are -inf gets zeros, as in torch.
    dtype: of what is multiplied. In bfloat16, for which head_dim and key_tile have to be even, q, k and v are int32, groups of two: of
    head_dim in q and k, of keys in v, which has zeros beyond the last key.
    """

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int
    tile: int
    key_tile: int
    scale: float
    causal: bool = False
    mask: tuple[int, ...] | None = None
    dtype: str = "float32"

    @property
    def padded_queries(self) -> int:
        return ceil_div(self.queries, self.tile) * self.tile

    @property
    def padded_keys(self) -> int:
        return ceil_div(self.keys, self.key_tile) * self.key_tile


def build(spec: AttentionSpec, target: Target):
    """PrimFunc(q, k, v, mask, out); without a mask the argument is a float32[1] that is not read."""
    lanes, tile, key_tile, dtype, size = target.lanes, spec.tile, spec.key_tile, spec.dtype, groups.SIZE[spec.dtype]
    vectors = tile // lanes
    most = max(16 // vectors, 1)  # 16 accumulators
    key_rows = max(r for r in range(1, most + 1) if key_tile % r == 0)
    value_rows = max(r for r in range(1, most + 1) if spec.value_dim % r == 0)
    batch, heads, dims, value_dim, keys = spec.batch, spec.heads, spec.head_dim // size, spec.value_dim, spec.keys
    shared = heads // spec.kv_heads
    q_tiles, k_tiles, key_groups = spec.padded_queries // tile, spec.padded_keys // key_tile, key_tile // size
    mask_shape = spec.mask or (1, 1, 1, 1)
    scale, causal, masked = spec.scale, spec.causal, spec.mask is not None
    last_query = spec.queries - 1
    rounded = ceil_div(ceil_div(keys, key_rows) * key_rows, size) * size
    stored = "float32" if dtype == "float32" else "int32"

    def score(total, M, b, h, i, j):
        """The score of query i (clipped: padding lanes read some valid mask) for key j."""
        total = total * T.float32(scale)
        if masked:
            row = T.min(i, last_query) if mask_shape[2] > 1 else 0
            total = total + M[b if mask_shape[0] > 1 else 0, h if mask_shape[1] > 1 else 0, row, T.min(j, keys - 1)]
        return T.Select(j <= i, total, T.float32(-np.inf)) if causal else total

    def packed(first, last):
        """What a row of the strip holds in the end: numbers, or groups of two, which lie before those that they are made of."""
        return first if size == 1 else tirx.reinterpret("float32", rounded_pair(first, last))

    def group(x):
        """The group that lies in a vector of the strip."""
        return x if size == 1 else tirx.reinterpret(f"int32x{lanes}", x)

    @T.prim_func
    def attention(
        Q: T.Buffer((batch * q_tiles, heads * dims, tile), stored),
        K: T.Buffer((batch * k_tiles, spec.kv_heads * dims, key_tile), stored),
        V: T.Buffer((batch * k_tiles, spec.kv_heads * value_dim, key_groups), stored),
        M: T.Buffer(mask_shape, "float32"),
        O: T.Buffer((batch * q_tiles, heads * value_dim, tile), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(batch * heads * q_tiles):
            P = T.alloc_buffer((rounded, tile), "float32")
            acc = T.alloc_local((most * tile,), "float32")
            part = T.alloc_local((size * tile,), "float32")
            top = T.alloc_local((tile,), "float32")
            total = T.alloc_local((tile,), "float32")
            b: T.let = job // (heads * q_tiles)
            h: T.let = job // q_tiles % heads
            at: T.let = job % q_tiles
            g: T.let = h // shared
            seen: T.let = T.min(keys, (at + 1) * tile) if causal else keys
            for l in T.vectorized(tile):
                top[l] = T.float32(MASKED)
                total[l] = T.float32(0)
            for j in range((seen + key_rows - 1) // key_rows):
                for r in T.unroll(key_rows):
                    for v in T.unroll(vectors):
                        acc[T.ramp(r * tile + v * lanes, 1, lanes)] = T.Broadcast(T.float32(0), lanes)
                for d in range(dims):
                    for r in T.unroll(key_rows):
                        for v in T.unroll(vectors):
                            acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.dot(
                                acc[T.ramp(r * tile + v * lanes, 1, lanes)],
                                Q[b * q_tiles + at, h * dims + d, T.ramp(v * lanes, 1, lanes)],
                                K[b * k_tiles + j * key_rows // key_tile, g * dims + d, j * key_rows % key_tile + r],
                                dtype,
                                target,
                            )
                for r in T.unroll(key_rows):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            P[j * key_rows + r, v * lanes + l] = score(
                                acc[r * tile + v * lanes + l], M, b, h, at * tile + v * lanes + l, j * key_rows + r
                            )
                    if j * key_rows + r < seen:
                        for l in T.vectorized(tile):
                            top[l] = T.max(top[l], P[j * key_rows + r, l])
            for j in range((seen + size - 1) // size):
                for r in T.unroll(size):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            part[r * tile + v * lanes + l] = T.Select(
                                j * size + r < seen, math.exp(P[j * size + r, v * lanes + l] - top[v * lanes + l]), T.float32(0)
                            )
                            total[v * lanes + l] = total[v * lanes + l] + part[r * tile + v * lanes + l]
                for v in T.unroll(vectors):
                    for l in T.vectorized(lanes):
                        P[j, v * lanes + l] = packed(part[v * lanes + l], part[(size - 1) * tile + v * lanes + l])
            for l in T.vectorized(tile):
                total[l] = T.float32(1) / T.max(T.float32(1e-30), total[l])  # at least 1 unless every score is -inf
            for d in range(value_dim // value_rows):
                for r in T.unroll(value_rows):
                    for v in T.unroll(vectors):
                        acc[T.ramp(r * tile + v * lanes, 1, lanes)] = T.Broadcast(T.float32(0), lanes)
                for j in range((seen + size - 1) // size):
                    for r in T.unroll(value_rows):
                        for v in T.unroll(vectors):
                            acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.dot(
                                acc[T.ramp(r * tile + v * lanes, 1, lanes)],
                                group(P[j, T.ramp(v * lanes, 1, lanes)]),
                                V[b * k_tiles + j // key_groups, g * value_dim + d * value_rows + r, j % key_groups],
                                dtype,
                                target,
                            )
                for r in T.unroll(value_rows):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            O[b * q_tiles + at, h * value_dim + d * value_rows + r, v * lanes + l] = (
                                acc[r * tile + v * lanes + l] * total[v * lanes + l]
                            )

    return groups.linked(attention, dtype, target)
