"""softmax(scale · q kᵀ + mask) v on tokens in the vector lanes: queries in lanes, so that the softmax needs no sum across them.

Each job is one head of one tile of queries. Scores lie transposed, [keys, queries], in a strip of keys × tile × 4 bytes.
"""

from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.kernels import math
from sparsecc.codegen.kernels.base import ceil_div
from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import T

MASKED = -3.4028234663852886e38  # the lowest finite score: a row in which every key has it gets their mean, as in softmax


@dataclass(frozen=True)
class AttentionSpec:
    """q: [batch·padded_queries/tile, heads·head_dim, tile], k and v likewise with key_tile and kv_heads, result like q with value_dim.

    mask: its shape [batch | 1, heads | 1, queries | 1, keys], added to the scaled scores; None without one.
    causal: query i sees keys j ≤ i, whatever the mask gives the others.  A query all of whose scores are -inf gets zeros, as in torch.
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

    @property
    def padded_queries(self) -> int:
        return ceil_div(self.queries, self.tile) * self.tile

    @property
    def padded_keys(self) -> int:
        return ceil_div(self.keys, self.key_tile) * self.key_tile


def build(spec: AttentionSpec, target: Target):
    """PrimFunc(q, k, v, mask, out); without a mask the argument is a float32[1] that is not read."""
    lanes, tile, key_tile = target.lanes, spec.tile, spec.key_tile
    vectors = tile // lanes
    most = max(16 // vectors, 1)  # 16 accumulators
    key_rows = max(r for r in range(1, most + 1) if key_tile % r == 0)
    value_rows = max(r for r in range(1, most + 1) if spec.value_dim % r == 0)
    batch, heads, dim, value_dim, keys = spec.batch, spec.heads, spec.head_dim, spec.value_dim, spec.keys
    shared = heads // spec.kv_heads
    q_tiles, k_tiles = spec.padded_queries // tile, spec.padded_keys // key_tile
    mask_shape = spec.mask or (1, 1, 1, 1)
    scale, causal, masked = spec.scale, spec.causal, spec.mask is not None
    last_query = spec.queries - 1
    rounded = ceil_div(keys, key_rows) * key_rows

    def score(total, M, b, h, i, j):
        """The score of query i (clipped: padding lanes read some valid mask) for key j."""
        total = total * T.float32(scale)
        if masked:
            row = T.min(i, last_query) if mask_shape[2] > 1 else 0
            total = total + M[b if mask_shape[0] > 1 else 0, h if mask_shape[1] > 1 else 0, row, T.min(j, keys - 1)]
        return T.Select(j <= i, total, T.float32(-np.inf)) if causal else total

    @T.prim_func
    def attention(
        Q: T.Buffer((batch * q_tiles, heads * dim, tile), "float32"),
        K: T.Buffer((batch * k_tiles, spec.kv_heads * dim, key_tile), "float32"),
        V: T.Buffer((batch * k_tiles, spec.kv_heads * value_dim, key_tile), "float32"),
        M: T.Buffer(mask_shape, "float32"),
        O: T.Buffer((batch * q_tiles, heads * value_dim, tile), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(batch * heads * q_tiles):
            P = T.alloc_buffer((rounded, tile), "float32")
            acc = T.alloc_local((most * tile,), "float32")
            top = T.alloc_local((tile,), "float32")
            total = T.alloc_local((tile,), "float32")
            b: T.let = job // (heads * q_tiles)
            h: T.let = job // q_tiles % heads
            at: T.let = job % q_tiles
            g: T.let = h // shared
            seen: T.let = T.min(keys, (at + 1) * tile) if causal else keys
            for j in range((seen + key_rows - 1) // key_rows):
                for r in T.unroll(key_rows):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            acc[r * tile + v * lanes + l] = T.float32(0)
                for d in range(dim):
                    for r in T.unroll(key_rows):
                        for v in T.unroll(vectors):
                            for l in T.vectorized(lanes):
                                acc[r * tile + v * lanes + l] = (
                                    acc[r * tile + v * lanes + l]
                                    + K[b * k_tiles + j * key_rows // key_tile, g * dim + d, j * key_rows % key_tile + r]
                                    * Q[b * q_tiles + at, h * dim + d, v * lanes + l]
                                )
                for r in T.unroll(key_rows):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            P[j * key_rows + r, v * lanes + l] = score(
                                acc[r * tile + v * lanes + l], M, b, h, at * tile + v * lanes + l, j * key_rows + r
                            )
            for l in T.vectorized(tile):
                top[l] = T.float32(MASKED)
                total[l] = T.float32(0)
            for j in range(seen):
                for v in T.unroll(vectors):
                    for l in T.vectorized(lanes):
                        top[v * lanes + l] = T.max(top[v * lanes + l], P[j, v * lanes + l])
            for j in range(seen):
                for v in T.unroll(vectors):
                    for l in T.vectorized(lanes):
                        P[j, v * lanes + l] = math.exp(P[j, v * lanes + l] - top[v * lanes + l])
                for v in T.unroll(vectors):
                    for l in T.vectorized(lanes):
                        total[v * lanes + l] = total[v * lanes + l] + P[j, v * lanes + l]
            for l in T.vectorized(tile):
                total[l] = T.float32(1) / T.max(T.float32(1e-30), total[l])  # at least 1 unless every score is -inf
            for d in range(value_dim // value_rows):
                for r in T.unroll(value_rows):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            acc[r * tile + v * lanes + l] = T.float32(0)
                for j in range(seen):
                    for r in T.unroll(value_rows):
                        for v in T.unroll(vectors):
                            for l in T.vectorized(lanes):
                                acc[r * tile + v * lanes + l] = (
                                    acc[r * tile + v * lanes + l]
                                    + V[b * k_tiles + j // key_tile, g * value_dim + d * value_rows + r, j % key_tile] * P[j, v * lanes + l]
                                )
                for r in T.unroll(value_rows):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(lanes):
                            O[b * q_tiles + at, h * value_dim + d * value_rows + r, v * lanes + l] = (
                                acc[r * tile + v * lanes + l] * total[v * lanes + l]
                            )

    return attention
