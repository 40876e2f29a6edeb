"""softmax(scale · q kᵀ) v over kept blocks of keys only, tokens in an order of their own for each head: PARO's attention.

`gather_blocks` copies q, k and v into blocks in the order of each head. `build` passes over the kept blocks of one block of queries after
the other with an online softmax (Milakov and Gimelshein 2018), of powers of two, and writes each result to its token's own place. Skipped
blocks cost nothing.

bfloat16 and int8 multiply groups of neighbouring numbers (see `groups`): of head_dim in q kᵀ, of keys in the product with v, for which the
softmax is rounded to bfloat16 in place. Sums are float32, of int8 int32.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from sparsecc.codegen.cpu.operators.gather_blocks import outputs
from sparsecc.codegen.cpu.operators.group_tokens import rounded_pair
from sparsecc.codegen.cpu.pieces import groups, math
from sparsecc.codegen.cpu.pieces.micro import fill
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T, tirx

_MASKED = -3.4028234663852886e38


@dataclass(frozen=True)
class BlockAttentionSpec:
    """q: [batch, heads, tokens, head_dim], k likewise with kv_heads, v with kv_heads and value_dim; result like q with value_dim.

    block: queries and keys per block.  kept: blocks kept over all heads.  causal: queries see no later key, tokens are in one order.
    mask: shape of what is added to the scores, [batch | 1, heads | 1, tokens | 1, tokens | 1] in the model's order.
    dtype: what q and k are rounded to.  values: what v and the softmax are, float32 or bfloat16.
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
    mask: tuple[int, ...] | None = None
    dtype: str = "float32"
    values: str = "float32"

    @property
    def blocks(self) -> int:
        """Along one axis of the map."""
        return ceil_div(self.tokens, self.block)

    @property
    def depth(self) -> int:
        """Groups of head_dim."""
        return ceil_div(self.head_dim, groups.SIZE[self.dtype])

    @property
    def value_depth(self) -> int:
        """Groups of keys of a block."""
        return ceil_div(self.block, groups.SIZE[self.values])

    @property
    def stored_values(self) -> str:
        """The type in which groups of v lie."""
        return "float32" if self.values == "float32" else "int32"

    def tile(self, target: Target) -> int:
        """Queries of a block, padded to whole vectors."""
        return ceil_div(self.block, target.lanes) * target.lanes

    @property
    def flops(self) -> dict[str, int]:
        """Multiplications and additions by number format."""
        found, scores = {self.values: 0, self.dtype: 0}, 2 * self.batch * self.kept * self.block**2
        found[self.dtype] += scores * self.head_dim
        found[self.values] += scores * self.value_dim
        return found

    def gathered_bytes(self, target: Target) -> int:
        """Of q, k and v in blocks."""
        return 4 * sum(prod(shape) for shape, _ in outputs(self, target))


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


def build(spec: BlockAttentionSpec, target: Target):
    """PrimFunc(*gathered, places, first, blocks, jobs, [mask], out): what `gather_blocks` has made, then what `prepare` has; out [batch,
    heads, tokens, value_dim]."""
    lanes, tile, tokens, count, block = target.lanes, spec.tile(target), spec.tokens, spec.blocks, spec.block
    batch, heads, depth, value_dim, dtype, values = spec.batch, spec.heads, spec.depth, spec.value_dim, spec.dtype, spec.values
    vectors, value_depth, paired, integer = tile // lanes, spec.value_depth, spec.values == "bfloat16", spec.dtype == "int8"
    rows = _rows(target, tile, block)
    value_rows = _rows(target, tile, value_dim)
    hidden = _MASKED if spec.mask is None else -np.inf  # a mask may hide all keys of a query, whose result is zero then
    stored, sums, padded = "float32" if dtype == "float32" else "int32", groups.SUM[dtype], value_depth * groups.SIZE[values]
    coarse = values != "float32"

    def score(total, head, query, key, places, M):
        """Of a key that the query may see. Without a mask it sees one of the first block of its row, which is its own or an earlier one."""
        if spec.mask is not None:
            row, column = (
                places[head % heads, T.min(at, tokens - 1)] if size > 1 else 0 for at, size in ((query, spec.mask[2]), (key, spec.mask[3]))
            )
            added = M[head // heads if spec.mask[0] > 1 else 0, head % heads if spec.mask[1] > 1 else 0, row, column]
            total = total + added * T.float32(math.LOG2E)
        return T.Select(key <= query if spec.causal else key < tokens, total, T.float32(hidden))

    def is_seen_whole(i, kb):
        """Whether every query sees every key of the block."""
        return kb < i if spec.causal else (kb + 1) * block <= tokens

    def inverse(total):
        return T.float32(1) / total if spec.mask is None else T.float32(1) / T.max(T.float32(1e-30), total)

    def group(x):
        """The group of keys that lies in a vector of scores."""
        return tirx.reinterpret(f"int32x{lanes}", x) if paired else x

    @T.inline
    def put_scores(S, top, acc, j, factor, seen_whole, head, i, kb, places, M):
        for r in T.unroll(rows):
            for v in T.unroll(vectors):
                for l in T.vectorized(lanes):
                    S[j * rows + r, v * lanes + l] = (
                        T.Cast("float32", acc[r * tile + v * lanes + l]) * factor if integer else acc[r * tile + v * lanes + l]
                    )
                if not seen_whole:
                    for l in T.vectorized(lanes):
                        S[j * rows + r, v * lanes + l] = score(
                            S[j * rows + r, v * lanes + l], head, i * block + v * lanes + l, kb * block + j * rows + r, places, M
                        )
                for l in T.vectorized(lanes):
                    top[v * lanes + l] = T.max(top[v * lanes + l], S[j * rows + r, v * lanes + l])

    @T.inline
    def attend(Q, K, V, q_scales, k_scales, starts, places, first, blocks, jobs, M, out):
        for n in T.parallel(batch * heads * count):
            S = T.alloc_buffer((padded, tile), "float32")  # scores, then their powers, keys × queries; groups of keys from the first row on
            O = T.alloc_buffer((value_dim, tile), "float32")
            dots = T.alloc_local((rows * tile,), sums)
            acc = T.alloc_local((value_rows * tile,), "float32")
            part = T.alloc_local((2 * tile,), "float32")
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
            for j in range(padded - block):
                for l in T.vectorized(tile):
                    S[block + j, l] = T.float32(-np.inf)
            for m in range(first[row + 1] - begin):
                kb: T.let = blocks[begin + m]
                fill(old, 1, tile, lanes, lambda r, l: top[l])
                for j in range(block // rows):
                    for r in T.unroll(rows):
                        for v in T.unroll(vectors):
                            dots[T.ramp(r * tile + v * lanes, 1, lanes)] = T.Broadcast(
                                starts[head, kb, j * rows + r] if integer else T.float32(0), lanes
                            )
                    for c in range(depth):
                        for r in T.unroll(rows):
                            for v in T.unroll(vectors):
                                dots[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.dot(
                                    dots[T.ramp(r * tile + v * lanes, 1, lanes)],
                                    Q[head, i, c, T.ramp(v * lanes, 1, lanes)],
                                    K[head, kb, j * rows + r, c],
                                    dtype,
                                    target,
                                )
                    factor: T.let = q_scales[head, i] * k_scales[head, kb] if integer else T.float32(1)
                    if spec.mask is not None:
                        put_scores(S, top, dots, j, factor, False, head, i, kb, places, M)
                    elif is_seen_whole(i, kb):
                        put_scores(S, top, dots, j, factor, True, head, i, kb, places, M)
                    else:
                        put_scores(S, top, dots, j, factor, False, head, i, kb, places, M)
                fill(old, 1, tile, lanes, lambda r, l: math.exp2(old[l] - top[l]))
                fill(total, 1, tile, lanes, lambda r, l: total[l] * old[l])
                if paired:
                    for j in range(value_depth):
                        fill(part, 2, tile, lanes, lambda r, l: math.exp2(S[j * 2 + r, l] - top[l], coarse))
                        fill(total, 1, tile, lanes, lambda r, l: total[l] + (part[l] + part[tile + l]))
                        for v in T.unroll(vectors):
                            for l in T.vectorized(lanes):
                                S[j, v * lanes + l] = tirx.reinterpret(
                                    "float32", rounded_pair(part[v * lanes + l], part[tile + v * lanes + l])
                                )
                else:
                    for j in range(block):
                        for v in T.unroll(vectors):
                            for l in T.vectorized(lanes):
                                S[j, v * lanes + l] = math.exp2(S[j, v * lanes + l] - top[v * lanes + l], coarse)
                        fill(total, 1, tile, lanes, lambda r, l: total[l] + S[j, l])
                for d in range(value_dim // value_rows):
                    fill(acc, value_rows, tile, lanes, lambda r, l: O[d * value_rows + r, l] * old[l])
                    for c in range(value_depth):
                        for r in T.unroll(value_rows):
                            for v in T.unroll(vectors):
                                acc[T.ramp(r * tile + v * lanes, 1, lanes)] = groups.dot(
                                    acc[T.ramp(r * tile + v * lanes, 1, lanes)],
                                    group(S[c, T.ramp(v * lanes, 1, lanes)]),
                                    V[head, kb, c, d * value_rows + r],
                                    values,
                                    target,
                                )
                    for r in T.unroll(value_rows):
                        for v in T.unroll(vectors):
                            for l in T.vectorized(lanes):
                                O[d * value_rows + r, v * lanes + l] = acc[r * tile + v * lanes + l]
            fill(total, 1, tile, lanes, lambda r, l: inverse(total[l]))
            for l in range(T.min(block, tokens - i * block)):
                for d in range(value_dim):
                    out[head // heads, head % heads, places[head % heads, i * block + l], d] = O[d, l] * total[l]

    (q_shape, _), (k_shape, _), (v_shape, _), *_ = outputs(spec, target)
    each, masks, results = (batch * heads, count), spec.mask or (1, 1, 1, 1), (batch, heads, tokens, value_dim)

    if not integer:

        @T.prim_func
        def block_attention(
            Q: T.Buffer(q_shape, stored),
            K: T.Buffer(k_shape, stored),
            V: T.Buffer(v_shape, spec.stored_values),
            places: T.Buffer((heads, count * block), "int32"),
            first: T.Buffer((heads * count + 1,), "int32"),
            blocks: T.Buffer((spec.kept,), "int32"),
            jobs: T.Buffer((batch * heads * count,), "int32"),
            M: T.Buffer(masks, "float32"),
            out: T.Buffer(results, "float32"),
        ):
            T.func_attr({"tirx.noalias": True})
            attend(Q, K, V, None, None, None, places, first, blocks, jobs, M, out)

        return groups.linked(block_attention, dtype, target)

    @T.prim_func
    def block_attention_int8(
        Q: T.Buffer(q_shape, stored),
        K: T.Buffer(k_shape, stored),
        V: T.Buffer(v_shape, spec.stored_values),
        q_scales: T.Buffer(each, "float32"),
        k_scales: T.Buffer(each, "float32"),
        starts: T.Buffer((*each, block), "int32"),
        places: T.Buffer((heads, count * block), "int32"),
        first: T.Buffer((heads * count + 1,), "int32"),
        blocks: T.Buffer((spec.kept,), "int32"),
        jobs: T.Buffer((batch * heads * count,), "int32"),
        M: T.Buffer(masks, "float32"),
        out: T.Buffer(results, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        attend(Q, K, V, q_scales, k_scales, starts, places, first, blocks, jobs, M, out)

    return groups.linked(block_attention_int8, values, target)


def _rows(target: Target, tile: int, extent: int) -> int:
    """Rows of a register tile: a divisor of `extent` with which accumulators take at most three quarters of the registers."""
    most = max(target.registers * 3 // 4 * target.lanes // tile, 1)
    return max(r for r in range(1, most + 1) if extent % r == 0)
