"""One recurrent layer over all its steps: what comes from the inputs is multiplied before, here runs what depends on the step before.

    LSTM  i, o, f = σ(x + R·h + p∘c);  c ← f∘c + i∘g(x + R·h);  h ← o∘g(c)
    GRU   z, r = σ(x + R·h);  h ← (1 - z)∘g(x + R·(r∘h)) + z∘h,  or  g(x + r∘(R·h + b))
    RNN   h ← g(x + R·h)

Groups of sequences run in parallel, each step of one after the other: R stays in the cache, its rows stand in the vector lanes, and each
row is read once for the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recurrent import RecurrentSpec
from sparsecc.codegen.tvm_api import T


def prepare(spec: RecurrentSpec, weight: np.ndarray) -> np.ndarray:
    """R [rows, depth] as [blocks, depth, width]."""
    blocks = spec.rows // spec.width
    return np.ascontiguousarray(weight.reshape(blocks, spec.width, spec.depth).transpose(0, 2, 1))


def build(spec: RecurrentSpec, target: Target) -> Any:
    """PrimFunc(x [steps, batch, rows], R, h [batch, hidden], c [batch, hidden], extra [3, hidden], y).

    extra: peepholes of i, o, f for an LSTM, the bias inside the reset for a GRU (its first row).
    """
    return {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[spec.cell](spec, target)


def _hard_sigmoid(x: Any) -> Any:
    return T.max(T.float32(0), T.min(T.float32(1), x * T.float32(0.2) + T.float32(0.5)))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "Sigmoid": lambda x: math.sigmoid(x),
    "Tanh": lambda x: math.tanh(x),
    "Relu": lambda x: T.max(T.float32(0), x),
    "HardSigmoid": _hard_sigmoid,
}


def sizes(spec: RecurrentSpec, target: Target) -> tuple[int, ...]:
    """What kernels are written in: steps, batch, hidden, depth, rows, width, lanes, blocks, group."""
    return spec.steps, spec.batch, spec.hidden, spec.depth, spec.rows, spec.width, target.lanes, spec.rows // spec.width, spec.group


def _lstm(spec: RecurrentSpec, target: Target) -> Any:
    steps, batch, hidden, depth, rows, width, lanes, blocks, group = sizes(spec, target)
    gate, candidate, output = (ACTIVATIONS[name] for name in spec.activations)
    last, vectors, reverse = steps - 1, width // lanes, spec.reverse

    @T.prim_func
    def lstm(
        X: T.Buffer((steps, batch, rows), "float32"),
        R: T.Buffer((blocks, depth, width), "float32"),
        H0: T.Buffer((batch, hidden), "float32"),
        C0: T.Buffer((batch, hidden), "float32"),
        P: T.Buffer((3, hidden), "float32"),
        Y: T.Buffer((steps + 1, batch, hidden), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(batch // group):
            h = T.alloc_local((group * hidden,), "float32")
            c = T.alloc_local((group * hidden,), "float32")
            g = T.alloc_local((group * rows,), "float32")
            acc = T.alloc_local((group * width,), "float32")
            for s in range(group):
                for j in T.vectorized(hidden):
                    h[s * hidden + j] = H0[job * group + s, j]
                    c[s * hidden + j] = C0[job * group + s, j]
            for t in range(steps):
                for block in range(blocks):
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            acc[s * width + v * lanes + l] = X[last - t if reverse else t, job * group + s, block * width + v * lanes + l]
                    for k in range(depth):
                        for v in T.unroll(vectors):
                            for s in T.unroll(group):
                                for l in T.vectorized(lanes):
                                    acc[s * width + v * lanes + l] = (
                                        acc[s * width + v * lanes + l] + h[s * hidden + k] * R[block, k, v * lanes + l]
                                    )
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            g[s * rows + block * width + v * lanes + l] = acc[s * width + v * lanes + l]
                for s, j in T.grid(group, hidden // lanes):
                    for l in T.vectorized(lanes):
                        g[s * rows + j * lanes + l] = gate(
                            g[s * rows + j * lanes + l] + P[0, j * lanes + l] * c[s * hidden + j * lanes + l]
                        ) * candidate(g[s * rows + 3 * hidden + j * lanes + l])
                    for l in T.vectorized(lanes):
                        c[s * hidden + j * lanes + l] = (
                            gate(g[s * rows + 2 * hidden + j * lanes + l] + P[2, j * lanes + l] * c[s * hidden + j * lanes + l])
                            * c[s * hidden + j * lanes + l]
                            + g[s * rows + j * lanes + l]
                        )
                    for l in T.vectorized(lanes):
                        h[s * hidden + j * lanes + l] = gate(
                            g[s * rows + hidden + j * lanes + l] + P[1, j * lanes + l] * c[s * hidden + j * lanes + l]
                        ) * output(c[s * hidden + j * lanes + l])
                    for l in T.vectorized(lanes):
                        Y[last - t if reverse else t, job * group + s, j * lanes + l] = h[s * hidden + j * lanes + l]
            for s in range(group):
                for j in T.vectorized(hidden):
                    Y[steps, job * group + s, j] = c[s * hidden + j]

    return lstm


def _gru(spec: RecurrentSpec, target: Target) -> Any:
    steps, batch, hidden, depth, rows, width, lanes, blocks, group = sizes(spec, target)
    gate, candidate = (ACTIVATIONS[name] for name in spec.activations)
    last, vectors, reverse, after = steps - 1, width // lanes, spec.reverse, spec.reset_after
    gates, one = blocks // 3 * 2, T.float32(1)

    @T.prim_func
    def gru(
        X: T.Buffer((steps, batch, rows), "float32"),
        R: T.Buffer((blocks, depth, width), "float32"),
        H0: T.Buffer((batch, hidden), "float32"),
        C0: T.Buffer((batch, hidden), "float32"),
        B: T.Buffer((3, hidden), "float32"),
        Y: T.Buffer((steps, batch, hidden), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(batch // group):
            h = T.alloc_local((group * hidden,), "float32")
            read = T.alloc_local((group * hidden,), "float32")
            g = T.alloc_local((group * rows,), "float32")
            acc = T.alloc_local((group * width,), "float32")
            for s in range(group):
                for j in T.vectorized(hidden):
                    h[s * hidden + j] = H0[job * group + s, j]
            for t in range(steps):
                for block in range(gates):
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            acc[s * width + v * lanes + l] = X[last - t if reverse else t, job * group + s, block * width + v * lanes + l]
                    for k in range(depth):
                        for v in T.unroll(vectors):
                            for s in T.unroll(group):
                                for l in T.vectorized(lanes):
                                    acc[s * width + v * lanes + l] = (
                                        acc[s * width + v * lanes + l] + h[s * hidden + k] * R[block, k, v * lanes + l]
                                    )
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            g[s * rows + block * width + v * lanes + l] = gate(acc[s * width + v * lanes + l])
                for s, j in T.grid(group, hidden // lanes):
                    for l in T.vectorized(lanes):
                        read[s * hidden + j * lanes + l] = h[s * hidden + j * lanes + l] * (
                            one if after else g[s * rows + hidden + j * lanes + l]
                        )
                for block in range(blocks - gates):
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            acc[s * width + v * lanes + l] = B[0, block * width + v * lanes + l]
                    for k in range(depth):
                        for v in T.unroll(vectors):
                            for s in T.unroll(group):
                                for l in T.vectorized(lanes):
                                    acc[s * width + v * lanes + l] = (
                                        acc[s * width + v * lanes + l] + read[s * hidden + k] * R[gates + block, k, v * lanes + l]
                                    )
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            g[s * rows + 2 * hidden + block * width + v * lanes + l] = candidate(
                                X[last - t if reverse else t, job * group + s, 2 * hidden + block * width + v * lanes + l]
                                + acc[s * width + v * lanes + l] * (g[s * rows + hidden + block * width + v * lanes + l] if after else one)
                            )
                for s, j in T.grid(group, hidden // lanes):
                    for l in T.vectorized(lanes):
                        h[s * hidden + j * lanes + l] = g[s * rows + 2 * hidden + j * lanes + l] + g[s * rows + j * lanes + l] * (
                            h[s * hidden + j * lanes + l] - g[s * rows + 2 * hidden + j * lanes + l]
                        )
                    for l in T.vectorized(lanes):
                        Y[last - t if reverse else t, job * group + s, j * lanes + l] = h[s * hidden + j * lanes + l]

    return gru


def _rnn(spec: RecurrentSpec, target: Target) -> Any:
    steps, batch, hidden, depth, rows, width, lanes, blocks, group = sizes(spec, target)
    (output,) = (ACTIVATIONS[name] for name in spec.activations)
    last, vectors, reverse = steps - 1, width // lanes, spec.reverse

    @T.prim_func
    def rnn(
        X: T.Buffer((steps, batch, rows), "float32"),
        R: T.Buffer((blocks, depth, width), "float32"),
        H0: T.Buffer((batch, hidden), "float32"),
        C0: T.Buffer((batch, hidden), "float32"),
        E: T.Buffer((3, hidden), "float32"),
        Y: T.Buffer((steps, batch, hidden), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(batch // group):
            h = T.alloc_local((group * hidden,), "float32")
            acc = T.alloc_local((group * width,), "float32")
            for s in range(group):
                for j in T.vectorized(hidden):
                    h[s * hidden + j] = H0[job * group + s, j]
            for t in range(steps):
                for block in range(blocks):
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            acc[s * width + v * lanes + l] = X[last - t if reverse else t, job * group + s, block * width + v * lanes + l]
                    for k in range(depth):
                        for v in T.unroll(vectors):
                            for s in T.unroll(group):
                                for l in T.vectorized(lanes):
                                    acc[s * width + v * lanes + l] = (
                                        acc[s * width + v * lanes + l] + h[s * hidden + k] * R[block, k, v * lanes + l]
                                    )
                    for s, v in T.grid(group, vectors):
                        for l in T.vectorized(lanes):
                            Y[last - t if reverse else t, job * group + s, block * width + v * lanes + l] = output(
                                acc[s * width + v * lanes + l]
                            )
                for s, j in T.grid(group, hidden // lanes):
                    for l in T.vectorized(lanes):
                        h[s * hidden + j * lanes + l] = Y[last - t if reverse else t, job * group + s, j * lanes + l]

    return rnn
