"""softmax(scale · q kᵀ) v over kept blocks of keys only, tokens in an order of their own for each head: PARO's attention.

Two kernels. `build_gather` copies q, k and v into blocks in the order of each head: queries transposed, so that they lie in the vector
lanes, keys and values row by row. `build` passes over the kept blocks of one block of queries after the other with an online softmax
(Milakov and Gimelshein 2018) and writes each result to its token's own place. Skipped blocks cost nothing.
"""

from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.cpu.pieces.micro import fill, multiply_add
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T

_MASKED = -3.4028234663852886e38


@dataclass(frozen=True)
class BlockAttentionSpec:
    """q: [batch, heads, tokens, head_dim], k likewise with kv_heads, v with kv_heads and value_dim; result like q with value_dim.

    block: queries and keys per block.  kept: blocks kept over all heads.  causal: queries see no later key, tokens are in one order.
    mask: shape of what is added to the scores, [batch | 1, heads | 1, tokens | 1, tokens | 1] in the model's order.
    """

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    head_dim: int
    value_dim: int
    block: int
    kept: int
    scale: float
    causal: bool = False
    mask: tuple[int, int, int, int] | None = None

    @property
    def blocks(self) -> int:
        """Along one axis of the map."""
        return ceil_div(self.tokens, self.block)

    def tile(self, target: Target) -> int:
        """Queries of a block, padded to whole vectors."""
        return ceil_div(self.block, target.lanes) * target.lanes

    def gathered(self, target: Target) -> list[tuple[int, ...]]:
        """Shapes of q, k and v in blocks."""
        each = (self.batch * self.heads, self.blocks)
        return [(*each, self.head_dim, self.tile(target)), (*each, self.block, self.head_dim), (*each, self.block, self.value_dim)]

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.kept * self.block**2 * (self.head_dim + self.value_dim)


def prepare(places: np.ndarray, keep: np.ndarray, spec: BlockAttentionSpec, target: Target) -> list[np.ndarray]:
    """places: int[heads, tokens], position in the head's order → token.  keep: bool[heads, blocks, blocks], no row empty.

    Returns places int32[heads, blocks·block] (padded with 0), first [heads·blocks + 1] and blocks [kept]: the kept blocks of each
    block of queries, and jobs [batch·heads·blocks]: blocks of queries, dealt out so that every thread has as much to do.
    """
    padded = np.zeros((spec.heads, spec.blocks * spec.block), np.int32)
    padded[:, : spec.tokens] = places
    lengths = keep.sum(axis=2).ravel()
    first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return [padded, first, np.nonzero(keep)[2].astype(np.int32), _balanced(np.tile(lengths, spec.batch), target.threads)]


def _balanced(lengths: np.ndarray, threads: int) -> np.ndarray:
    """Jobs in an order whose `threads` equal parts, of which each thread takes one, hold about the same work: dealt out longest
    first, there and back, and within a part in their own order, which keeps a head's keys in cache."""
    order = np.argsort(-lengths, kind="stable")
    turn = np.arange(len(order)) % (2 * threads)
    hand = np.minimum(turn, 2 * threads - 1 - turn)
    shares = [np.sort(order[hand == t]) for t in range(threads)]
    return np.concatenate(shares).astype(np.int32)


def build_gather(spec: BlockAttentionSpec, target: Target):
    """PrimFunc(q, k, v, places, Q, K, V): Q [batch·heads, blocks, head_dim, tile] scaled, K and V [.., blocks, block, dim]."""
    batch, heads, kv_heads, tokens, blocks, block = spec.batch, spec.heads, spec.kv_heads, spec.tokens, spec.blocks, spec.block
    dim, value_dim, scale, shared = spec.head_dim, spec.value_dim, spec.scale, spec.heads // spec.kv_heads
    tile = spec.tile(target)

    @T.prim_func
    def block_attention_gather(
        q: T.Buffer((batch, heads, tokens, dim), "float32"),
        k: T.Buffer((batch, kv_heads, tokens, dim), "float32"),
        v: T.Buffer((batch, kv_heads, tokens, value_dim), "float32"),
        places: T.Buffer((heads, blocks * block), "int32"),
        Q: T.Buffer((batch * heads, blocks, dim, tile), "float32"),
        K: T.Buffer((batch * heads, blocks, block, dim), "float32"),
        V: T.Buffer((batch * heads, blocks, block, value_dim), "float32"),
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
                    Q[b * heads + h, i, d, j] = q[b, h, query, d] * T.float32(scale)

    return block_attention_gather


def build(spec: BlockAttentionSpec, target: Target):
    """PrimFunc(Q, K, V, places, first, blocks, jobs, [mask], out): what `build_gather` has made, then what `prepare` has; out [batch,
    heads, tokens, value_dim]."""
    lanes, tile, tokens, count, block = target.lanes, spec.tile(target), spec.tokens, spec.blocks, spec.block
    batch, heads, dim, value_dim = spec.batch, spec.heads, spec.head_dim, spec.value_dim
    rows = _rows(target, tile, block)
    value_rows = _rows(target, tile, value_dim)
    hidden = _MASKED if spec.mask is None else -np.inf  # a mask may hide all keys of a query, whose result is zero then

    def score(total, head, query, key, places, M):
        """Of a key that the query may see. Without a mask it sees one of the first block of its row, which is its own or an earlier one."""
        if spec.mask is not None:
            row, column = (
                places[head % heads, T.min(at, tokens - 1)] if size > 1 else 0 for at, size in ((query, spec.mask[2]), (key, spec.mask[3]))
            )
            total = total + M[head // heads if spec.mask[0] > 1 else 0, head % heads if spec.mask[1] > 1 else 0, row, column]
        return T.Select(key <= query if spec.causal else key < tokens, total, T.float32(hidden))

    def inverse(total):
        return T.float32(1) / total if spec.mask is None else T.float32(1) / T.max(T.float32(1e-30), total)

    @T.inline
    def attend(Q, K, V, places, first, blocks, jobs, M, out):
        for n in T.parallel(batch * heads * count):
            S = T.alloc_buffer((block, tile), "float32")  # scores, then their exponentials, keys × queries
            O = T.alloc_buffer((value_dim, tile), "float32")
            acc = T.alloc_local((T.max(rows, value_rows) * tile,), "float32")
            top = T.alloc_local((tile,), "float32")  # the largest score of each query so far
            old = T.alloc_local((tile,), "float32")
            total = T.alloc_local((tile,), "float32")
            head: T.let = jobs[n] // count
            i: T.let = jobs[n] % count
            row: T.let = head % heads * count + i
            begin: T.let = first[row]
            fill(top, 1, tile, lanes, lambda r, l: T.float32(_MASKED))
            fill(total, 1, tile, lanes, lambda r, l: T.float32(0))
            for d in range(value_dim):
                for l in T.vectorized(tile):
                    O[d, l] = T.float32(0)
            for m in range(first[row + 1] - begin):
                kb: T.let = blocks[begin + m]
                for j in range(block // rows):
                    fill(acc, rows, tile, lanes, lambda r, l: T.float32(0))
                    multiply_add(acc, dim, rows, tile, lanes, lambda c, r: K[head, kb, j * rows + r, c], lambda c, l: Q[head, i, c, l])
                    for r in T.unroll(rows):
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                S[j * rows + r, v * lanes + l] = score(
                                    acc[r * tile + v * lanes + l], head, i * block + v * lanes + l, kb * block + j * rows + r, places, M
                                )
                fill(old, 1, tile, lanes, lambda r, l: top[l])
                for j in range(block):
                    fill(top, 1, tile, lanes, lambda r, l: T.max(top[l], S[j, l]))
                fill(old, 1, tile, lanes, lambda r, l: math.exp(old[l] - top[l]))
                fill(total, 1, tile, lanes, lambda r, l: total[l] * old[l])
                for j in range(block):
                    for v in T.unroll(tile // lanes):
                        for l in T.vectorized(lanes):
                            S[j, v * lanes + l] = math.exp(S[j, v * lanes + l] - top[v * lanes + l])
                    fill(total, 1, tile, lanes, lambda r, l: total[l] + S[j, l])
                for d in range(value_dim // value_rows):
                    fill(acc, value_rows, tile, lanes, lambda r, l: O[d * value_rows + r, l] * old[l])
                    multiply_add(acc, block, value_rows, tile, lanes, lambda c, r: V[head, kb, c, d * value_rows + r], lambda c, l: S[c, l])
                    for r in T.unroll(value_rows):
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                O[d * value_rows + r, v * lanes + l] = acc[r * tile + v * lanes + l]
            fill(total, 1, tile, lanes, lambda r, l: inverse(total[l]))
            for l in range(T.min(block, tokens - i * block)):
                for d in range(value_dim):
                    out[head // heads, head % heads, places[head % heads, i * block + l], d] = O[d, l] * total[l]

    if spec.mask is None:

        @T.prim_func
        def block_attention(
            Q: T.Buffer((batch * heads, count, dim, tile), "float32"),
            K: T.Buffer((batch * heads, count, block, dim), "float32"),
            V: T.Buffer((batch * heads, count, block, value_dim), "float32"),
            places: T.Buffer((heads, count * block), "int32"),
            first: T.Buffer((heads * count + 1,), "int32"),
            blocks: T.Buffer((spec.kept,), "int32"),
            jobs: T.Buffer((batch * heads * count,), "int32"),
            out: T.Buffer((batch, heads, tokens, value_dim), "float32"),
        ):
            T.func_attr({"tirx.noalias": True})
            attend(Q, K, V, places, first, blocks, jobs, None, out)

        return block_attention

    @T.prim_func
    def block_attention_masked(
        Q: T.Buffer((batch * heads, count, dim, tile), "float32"),
        K: T.Buffer((batch * heads, count, block, dim), "float32"),
        V: T.Buffer((batch * heads, count, block, value_dim), "float32"),
        places: T.Buffer((heads, count * block), "int32"),
        first: T.Buffer((heads * count + 1,), "int32"),
        blocks: T.Buffer((spec.kept,), "int32"),
        jobs: T.Buffer((batch * heads * count,), "int32"),
        M: T.Buffer(spec.mask, "float32"),
        out: T.Buffer((batch, heads, tokens, value_dim), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        attend(Q, K, V, places, first, blocks, jobs, M, out)

    return block_attention_masked


def _rows(target: Target, tile: int, extent: int) -> int:
    """Rows of a register tile: a divisor of `extent` with which accumulators take at most three quarters of the registers."""
    most = max(target.registers * 3 // 4 * target.lanes // tile, 1)
    return max(r for r in range(1, most + 1) if extent % r == 0)
