"""What kernels for a few tokens share: outputs lie in the vector lanes, so that one register holds weights of `lanes` outputs.

Tokens in the lanes would leave 15 of 16 lanes empty here. What takes the time is reading the weights, which are therefore stored in the
order in which they are read, and multiplied with every token of a pass once they are loaded. A few tokens are a `MatmulSpec` with one
position and a batch of tokens: X [tokens, features, 1] lies in memory as a model has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T
from sparsecc.codegen.zeros import in_blocks

MOST_TOKENS = 8  # in a pass; more have their weights read again
CHAINS = 4  # independent sums that hide the latency of a multiply-add
# Of outputs in a block, best first. Measured on Zen 5: 4 take 4 to 9 % less than 2, but where each token needs registers besides its sums,
# as for N:M, 16 % more (up to 20 % on Zen 4).
_VECTORS, _VECTORS_BESIDE_SCRATCH = (4, 2, 1), (2, 4, 1)
_PARTS = (1, 2, 4, 8)  # for each thread


@dataclass(frozen=True)
class Passes(Knobs):
    """tokens: in a pass over the weights.  rows: the outputs of a block, a multiple of the vector width.
    parts: that the blocks are divided into, for the threads."""

    tokens: int
    rows: int
    parts: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.tokens} parts={self.parts}"


def space(spec: MatmulSpec, target: Target, block_rows: int = 0, scratch: int = 1) -> list[Passes]:
    """Best guess first: threads have the same work, then blocks are as high as is fastest.

    block_rows: what `rows` has to divide; 0: nothing.  scratch: registers that a kernel needs for each token besides its sums.
    """
    lanes, threads = target.lanes, target.threads
    free = target.registers - 2
    passes = ceil_div(spec.batch, min(MOST_TOKENS, free // (1 + scratch)))
    tokens = ceil_div(spec.batch, passes)
    found = []
    for vectors in _VECTORS if scratch <= 1 else _VECTORS_BESIDE_SCRATCH:
        height = vectors * lanes
        if tokens * (vectors + scratch) > free or height > max(spec.rows, lanes) or block_rows % height:
            continue
        blocks = ceil_div(spec.rows, height)
        parts = [min(threads * each, blocks) for each in _PARTS]
        found += [Passes(tokens, height, part) for part in dict.fromkeys(parts)]
    return sorted(found, key=lambda k: (_steps(spec, k, threads) * k.rows, k.parts))


def _steps(spec: MatmulSpec, knobs: Passes, threads: int) -> int:
    """Blocks that the busiest thread computes."""
    return ceil_div(ceil_div(spec.rows, knobs.rows), knobs.parts) * ceil_div(knobs.parts, threads)


def in_lanes(array: np.ndarray, height: int) -> np.ndarray:
    """[rows, n] → [blocks, n, height]."""
    return np.ascontiguousarray(in_blocks(array, height).reshape(-1, height, array.shape[1]).transpose(0, 2, 1))


def vector_of(buffer, places: Sequence, lanes: int):
    """Four elements of a buffer, again and again over all lanes. places: where they lie; the address of the first alone where they are
    neighbours, which is one load."""
    four = [buffer[T.ramp(places[0], 1, 4)]] if len(places) == 1 else [buffer[place] for place in places]
    return T.Shuffle(four * (lanes // 4), list(range(lanes)))


@T.inline
def store(Y, tokens, height, lanes, rows, at, value):
    """Y[at(t) + r] = value(t, r), of the `height` outputs of a block; rows: of the whole matrix, which may be fewer."""
    for t in T.unroll(tokens):
        if rows >= height:
            for v in T.unroll(height // lanes):
                for l in T.vectorized(lanes):
                    Y[at(t) + v * lanes + l] = value(t, v * lanes + l)
        else:
            for r in T.unroll(rows):
                Y[at(t) + r] = value(t, r)


@T.inline
def finish(Y, R, acc, first, row, tokens, height, lanes, rows, epilogue):
    """Store float32 sums [tokens, height] of the block that begins with `row`; first: the first token of the pass.  R: as Y, flat."""
    store(
        Y,
        tokens,
        height,
        lanes,
        rows,
        lambda t: (first + t) * rows + row,
        lambda t, r: apply(epilogue, acc[t * height + r], lambda: R[(first + t) * rows + row + r]),
    )
