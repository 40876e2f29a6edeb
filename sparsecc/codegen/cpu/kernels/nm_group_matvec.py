"""N:M kernel for a few int8 tokens, with outputs in the vector lanes: each lane multiplies four kept weights at once with the inputs that
it selects (see `matvec`, `nm_select` and `groups`).

2:4 reads 0.625 bytes for each weight of the dense matrix.
"""

import math

import numpy as np

from sparsecc.codegen.cpu.kernels import nm_matvec
from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.kernels.nm_matvec import Kept
from sparsecc.codegen.cpu.pieces import groups, matvec, nm_select
from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.micro import fill
from sparsecc.codegen.cpu.pieces.nm_select import GROUP
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T

space = nm_matvec.space
_SLOTS = 4  # weights in a lane


def prepare(
    matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Kept, scales: np.ndarray | None, target: Target
) -> list[np.ndarray]:
    """matrix: int8 [rows, depth] with its zeros; scales: float32 [rows].

    Returns weights int32 [blocks, vectors, rows of a block], the words of their places [blocks, words, rows of a block], and what sums
    begin with, scales and bias (all [blocks · rows of a block]).
    """
    values, places = nm_select.compact(matrix.astype(np.int8, copy=False), knobs.keep)
    offsets = padded_bias(bias, spec.rows, spec.rows)
    starts = groups.starts(matrix, offsets, "int8")
    return [
        matvec.in_lanes(groups.grouped(values, 1, "int8"), knobs.rows),
        matvec.in_lanes(nm_select.words(places, "int8"), knobs.rows),
        *(matvec.in_blocks(array, knobs.rows) for array in (starts, padded_bias(scales, spec.rows, spec.rows), offsets)),
    ]


def build(spec: MatmulSpec, knobs: Kept, target: Target):
    """PrimFunc(X, token scales and zero points [batch, 1], weights, words, starts, scales, bias, residual, Y); X: int32 [batch, groups, 1].

    `residual` has Y's shape, or is the bias again when the epilogue has none.
    """
    lanes, height, tokens, parts, keep = target.lanes, knobs.rows, knobs.tokens, knobs.parts, knobs.keep
    rows, inner = spec.rows, spec.channel_groups
    blocks, passes = ceil_div(rows, height), ceil_div(spec.batch, tokens)
    per_part, last_block, last_pass = ceil_div(blocks, parts), max(rows - height, 0), spec.batch - tokens
    vectors = ceil_div(inner * keep, _SLOTS)
    step = math.lcm(_SLOTS, keep)  # vectors after which a word begins with a window
    windows, step_words = step // keep, step // _SLOTS
    whole = inner // (windows * GROUP)
    n_words, rest = ceil_div(vectors, _SLOTS), vectors - whole * step
    epilogue = spec.epilogue
    r_shape = spec.y_shape if epilogue.residual else (blocks * height,)
    x_size, y_size, r_size = math.prod(spec.x_shape), math.prod(spec.y_shape), math.prod(r_shape)

    def window(X, token, first, number, count):
        """Groups from the number-th window after `first`, of which `count` exist; the last stands for the others."""
        at, number = token * inner + first, number * GROUP
        neighbours = number + GROUP <= count
        places = [at + number] if neighbours else [at + min(number + j, count - 1) for j in range(GROUP)]
        return matvec.vector_of(X, places, lanes)

    def dots(total, count, window, weights, word):
        """The next `count` vectors; window(n), weights(n) and word(n): the n-th of each."""
        for n in range(count):
            x = nm_select.fours(window(n // keep), word(n // _SLOTS), n, keep, target)
            total = groups.dot_of_lanes(total, x, weights(n), "int8", target)
        return total

    @T.prim_func
    def nm_group_matvec(
        x: T.Buffer(spec.x_shape, "int32"),
        token_scales: T.Buffer((spec.batch, 1), "float32"),
        token_zeros: T.Buffer((spec.batch, 1), "int32"),
        W: T.Buffer((blocks, vectors, height), "int32"),
        P: T.Buffer((blocks, n_words, height), "int32"),
        starts: T.Buffer((blocks * height,), "int32"),
        scales: T.Buffer((blocks * height,), "float32"),
        B: T.Buffer((blocks * height,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "int32", data=x.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)

        @T.inline
        def multiply(acc, i, s, first, count, groups_left):
            """`count` vectors from the s-th step on."""
            for v in T.unroll(height // lanes):
                for t in T.unroll(tokens):
                    acc[T.ramp(t * height + v * lanes, 1, lanes)] = dots(
                        acc[T.ramp(t * height + v * lanes, 1, lanes)],
                        count,
                        lambda n: window(X, first + t, s * windows * GROUP, n, groups_left),
                        lambda n: W[i, s * step + n, T.ramp(v * lanes, 1, lanes)],
                        lambda n: P[i, s * step_words + n, T.ramp(v * lanes, 1, lanes)],
                    )

        for job in T.parallel(passes * parts):
            acc = T.alloc_local((tokens * height,), "int32")
            first: T.let = T.min(job // parts * tokens, last_pass)
            for ii in range(T.min(per_part, blocks - job % parts * per_part)):
                i: T.let = job % parts * per_part + ii
                row: T.let = T.min(i * height, last_block)
                fill(
                    acc, tokens, height, lanes, lambda t, r: groups.begin(starts[i * height + r], lambda: token_zeros[first + t, 0], "int8")
                )
                for s in range(whole):
                    multiply(acc, i, s, first, step, windows * GROUP)
                if rest > 0:
                    multiply(acc, i, whole, first, rest, inner - whole * windows * GROUP)
                matvec.store(
                    Y,
                    tokens,
                    height,
                    lanes,
                    rows,
                    lambda t: (first + t) * rows + row,
                    lambda t, r: apply(
                        epilogue,
                        groups.result(
                            acc[t * height + r],
                            "int8",
                            lambda: scales[i * height + r] * token_scales[first + t, 0],
                            B[i * height + r],
                        ),
                        lambda: R[(first + t) * rows + row + r],
                    ),
                )

    return nm_group_matvec


KERNEL = Kernel(
    space,
    prepare,
    build,
    Kept,
    bias=4,
    dtypes=("int8",),
    few=True,
    structure=nm_select.of_four,
    zeros=nm_select.kept_of_four,
    index_bytes=lambda *_: nm_select.INDEX_BYTES,
)
