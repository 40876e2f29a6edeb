"""The steps of an LSTM whose recurrent weight has eight bits and whose state is rounded to eight before each product, as onnxruntime's
DynamicQuantizeLSTM does it.

    s = (max(h, 0) - min(h, 0)) / 255 over all sequences;  q = round(h / s) + z, within 0 to 255;  R·h = s · r ∘ ((R - z_r)·(q - z))

All sequences share one scale, so that a step ends for all of them before the next begins. Sums are floats: 2^24 holds 518 products
exactly. onnxruntime on several threads gives parts of a batch scales of their own; here it is one scale whatever the threads.
"""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.cpu.operators.recurrent import ACTIVATIONS, sizes
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recurrent import EXTRA, SCALES, ZEROS, RecurrentSpec
from sparsecc.codegen.tvm_api import T


def build(spec: RecurrentSpec, target: Target) -> Any:
    """PrimFunc(x [steps, batch, rows], R as `recurrent.prepare` has it, h [batch, hidden], c [batch, hidden], extra, y)."""
    steps, batch, hidden, depth, rows, width, lanes, blocks, group = sizes(spec, target)
    gate, candidate, output = (ACTIVATIONS[name] for name in spec.activations)
    last, vectors, reverse = steps - 1, width // lanes, spec.reverse
    jobs = T.parallel if batch > group else T.serial  # a single job is not worth waking threads for
    wide = hidden // lanes

    @T.prim_func
    def quantized_lstm(
        X: T.Buffer((steps, batch, rows), "float32"),
        R: T.Buffer((blocks, depth, width), spec.dtype),
        H0: T.Buffer((batch, hidden), "float32"),
        C0: T.Buffer((batch, hidden), "float32"),
        E: T.Buffer((EXTRA, hidden), "float32"),
        Y: T.Buffer((steps + 1, batch, hidden), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        h = T.alloc_buffer((batch * hidden,), "float32")
        ends = T.alloc_buffer((2,), "float32")
        for s in range(batch):
            for j in T.vectorized(hidden):
                h[s * hidden + j] = H0[s, j]
                Y[steps, s, j] = C0[s, j]
        for t in range(steps):
            ends[0] = T.float32(0)
            ends[1] = T.float32(0)
            for k in range(batch * hidden):
                ends[0] = T.min(h[k], ends[0])
                ends[1] = T.max(h[k], ends[1])
            ends[1] = T.if_then_else(ends[1] > ends[0], (ends[1] - ends[0]) / T.float32(255), T.float32(1))  # the scale
            ends[0] = T.nearbyint(T.max(T.float32(0), T.min(T.float32(255), T.float32(0) - ends[0] / ends[1])))  # the zero point
            for k in range(batch * wide):
                for l in T.vectorized(lanes):
                    h[k * lanes + l] = (
                        T.max(T.float32(0), T.min(T.float32(255), T.nearbyint(h[k * lanes + l] / ends[1]) + ends[0])) - ends[0]
                    )
            for job in jobs(batch // group):
                g = T.alloc_local((group * rows,), "float32")
                acc = T.alloc_local((group * width,), "float32")
                total = T.alloc_local((group,), "float32")
                for s in range(group):
                    total[s] = T.float32(0)
                    for k in range(depth):
                        total[s] = total[s] + h[(job * group + s) * hidden + k]
                for block in range(blocks):
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            acc[s * width + v * lanes + l] = T.float32(0)
                    for k in range(depth):
                        for v in T.unroll(vectors):
                            for s in T.unroll(group):
                                for l in T.vectorized(lanes):
                                    acc[s * width + v * lanes + l] = acc[s * width + v * lanes + l] + h[
                                        (job * group + s) * hidden + k
                                    ] * T.Cast("float32", R[block, k, v * lanes + l])
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            g[s * rows + block * width + v * lanes + l] = X[
                                last - t if reverse else t, job * group + s, block * width + v * lanes + l
                            ] + (
                                acc[s * width + v * lanes + l]
                                - E[ZEROS + block * width // hidden, block * width % hidden + v * lanes + l] * total[s]
                            ) * (ends[1] * E[SCALES + block * width // hidden, block * width % hidden + v * lanes + l])
                for s, j in T.grid(group, wide):
                    for l in T.vectorized(lanes):
                        g[s * rows + j * lanes + l] = gate(
                            g[s * rows + j * lanes + l] + E[0, j * lanes + l] * Y[steps, job * group + s, j * lanes + l]
                        ) * candidate(g[s * rows + 3 * hidden + j * lanes + l])
                    for l in T.vectorized(lanes):
                        Y[steps, job * group + s, j * lanes + l] = (
                            gate(g[s * rows + 2 * hidden + j * lanes + l] + E[2, j * lanes + l] * Y[steps, job * group + s, j * lanes + l])
                            * Y[steps, job * group + s, j * lanes + l]
                            + g[s * rows + j * lanes + l]
                        )
                    for l in T.vectorized(lanes):
                        Y[last - t if reverse else t, job * group + s, j * lanes + l] = gate(
                            g[s * rows + hidden + j * lanes + l] + E[1, j * lanes + l] * Y[steps, job * group + s, j * lanes + l]
                        ) * output(Y[steps, job * group + s, j * lanes + l])
                    for l in T.vectorized(lanes):
                        h[(job * group + s) * hidden + j * lanes + l] = Y[last - t if reverse else t, job * group + s, j * lanes + l]

    return quantized_lstm
