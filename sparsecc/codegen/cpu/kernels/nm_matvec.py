"""N:M kernel for a few tokens, with outputs in the vector lanes: 1, 2 or 3 of every 4 inputs, float32 (see `matvec` and `nm_select`).

2:4 reads 2.25 bytes for each weight of the dense matrix, of 4.
"""

import math
from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cpu.kernels.dense_matmul import padded_bias
from sparsecc.codegen.cpu.pieces import matvec, nm_select
from sparsecc.codegen.cpu.pieces.matvec import Passes
from sparsecc.codegen.cpu.pieces.micro import fill
from sparsecc.codegen.cpu.pieces.nm_select import GROUP, PER_WORD
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class Kept(Passes):
    """keep: weights stored of every group of four inputs."""

    keep: int

    def __str__(self) -> str:
        return f"{super().__str__()} keep={self.keep}"


def space(spec: MatmulSpec, keep: int, target: Target) -> list[Kept]:
    """keep: the most weights that an output has in four neighbouring inputs, 1 to 3 (see `nm_select.kept`)."""
    return [Kept(k.tokens, k.rows, k.parts, keep) for k in matvec.space(spec, target, scratch=2)]


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Kept) -> list[np.ndarray]:
    """matrix: [rows, depth] with its zeros. Returns values [blocks, groups · keep, rows of a block], the words of their places
    [blocks, words, rows of a block] and bias [blocks · rows of a block]."""
    values, places = nm_select.compact(matrix.astype(np.float32, copy=False), knobs.keep)
    return [
        matvec.in_lanes(values, knobs.rows),
        matvec.in_lanes(nm_select.words(places, "float32"), knobs.rows),
        matvec.in_blocks(padded_bias(bias, spec.rows, spec.rows), knobs.rows),
    ]


def build(spec: MatmulSpec, knobs: Kept, target: Target):
    """PrimFunc(X, values, words, bias, residual, Y); `residual` has Y's shape, or is the bias again when the epilogue has none."""
    lanes, height, tokens, parts, keep = target.lanes, knobs.rows, knobs.tokens, knobs.parts, knobs.keep
    rows, depth = spec.rows, spec.depth
    blocks, passes = ceil_div(rows, height), ceil_div(spec.batch, tokens)
    per_part, last_block, last_pass = ceil_div(blocks, parts), max(rows - height, 0), spec.batch - tokens
    groups = ceil_div(depth, GROUP)
    step = math.lcm(PER_WORD, keep) // keep  # groups after which a word begins with a group
    whole = depth // GROUP // step
    n_words, step_words = ceil_div(groups * keep, PER_WORD), step * keep // PER_WORD
    epilogue = spec.epilogue
    r_shape = spec.y_shape if epilogue.residual else (blocks * height,)
    x_size, y_size, r_size = math.prod(spec.x_shape), math.prod(spec.y_shape), math.prod(r_shape)

    def inputs(X, token, group, count):
        """A group of which `count` inputs exist; the last stands for the others, whose weights are zero."""
        first = token * depth + group * GROUP
        return matvec.vector_of(X, [first] if count == GROUP else [first + min(j, count - 1) for j in range(GROUP)], lanes)

    @T.prim_func
    def nm_matvec(
        x: T.Buffer(spec.x_shape, "float32"),
        V: T.Buffer((blocks, groups * keep, height), "float32"),
        P: T.Buffer((blocks, n_words, height), "int32"),
        B: T.Buffer((blocks * height,), "float32"),
        residual: T.Buffer(r_shape, "float32"),
        y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), "float32", data=x.data)
        R = T.decl_buffer((r_size,), "float32", data=residual.data)
        Y = T.decl_buffer((y_size,), "float32", data=y.data)

        @T.inline
        def multiply(acc, i, group, word, slot, first, count):
            """One group; slot: of its first weight, in the words from `word`."""
            for k in T.unroll(keep):
                for v in T.unroll(height // lanes):
                    for t in T.unroll(tokens):
                        acc[T.ramp(t * height + v * lanes, 1, lanes)] = acc[T.ramp(t * height + v * lanes, 1, lanes)] + V[
                            i, group * keep + k, T.ramp(v * lanes, 1, lanes)
                        ] * nm_select.floats(
                            inputs(X, first + t, group, count),
                            P[i, word + (slot + k) // PER_WORD, T.ramp(v * lanes, 1, lanes)],
                            (slot + k) % PER_WORD,
                            target,
                        )

        for job in T.parallel(passes * parts):
            acc = T.alloc_local((tokens * height,), "float32")
            first: T.let = T.min(job // parts * tokens, last_pass)
            for ii in range(T.min(per_part, blocks - job % parts * per_part)):
                i: T.let = job % parts * per_part + ii
                row: T.let = T.min(i * height, last_block)
                fill(acc, tokens, height, lanes, lambda t, r: B[i * height + r])
                for s in range(whole):
                    for g in T.unroll(step):
                        multiply(acc, i, s * step + g, s * step_words, g * keep, first, GROUP)
                for g in T.unroll(depth // GROUP - whole * step):
                    multiply(acc, i, whole * step + g, whole * step_words, g * keep, first, GROUP)
                if depth % GROUP > 0:
                    multiply(acc, i, groups - 1, whole * step_words, (groups - 1 - whole * step) * keep, first, depth % GROUP)
                matvec.finish(Y, R, acc, first, row, tokens, height, lanes, rows, epilogue)

    return nm_matvec


KERNEL = Kernel(
    space,
    prepare,
    build,
    Kept,
    bias=2,
    few=True,
    structure=nm_select.of_four,
    zeros=nm_select.kept_of_four,
    index_bytes=lambda *_: nm_select.INDEX_BYTES,
)
