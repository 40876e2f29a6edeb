"""A compiled model small enough for every test: y = x·Wᵀ and relu(y), made without the rest of sparsecc."""

from __future__ import annotations

import functools
import platform

import numpy as np

from sparsecc.codegen.library import Library
from sparsecc.codegen.target import Target
from sparsecc.graph.base import TensorSpec
from sparsecc.report.base import Report, SiteReport
from sparsecc.runtime.compiled import Compiled

ROWS, COLS = 5, 24
TARGET = Target("generic", f"{platform.machine()}-linux-gnu", (), 128, 16, 32768, 1 << 20, 2)
WEIGHT = np.random.default_rng(0).standard_normal((ROWS, COLS)).astype(np.float32)
REPORT = Report(sparsecc="0.1.0", model="tiny", target="cpu", sites=(SiteReport(name="fc", kind="Linear", shape=(ROWS, COLS)),))


@functools.cache
def executable(tokens: int):
    """`main(x[tokens, COLS], w[ROWS, COLS]) -> (y, relu(y), x)`."""
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType((tokens, COLS), "float32"))
    w = relax.Var("w", relax.TensorType((ROWS, COLS), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        y = builder.emit_te(_matmul, x, w)
        r = builder.emit_te(_relu, y)
        builder.emit_func_output(relax.Tuple([y, r, x]))
    return tvm.compile(builder.get(), target=tvm.target.Target("llvm"))


def _matmul(x, w):
    from tvm import te

    k = te.reduce_axis((0, COLS), "k")
    return te.compute((x.shape[0], ROWS), lambda i, j: te.sum(x[i, k] * w[j, k], axis=k))


def _relu(y):
    from tvm import te, tirx

    return te.compute(y.shape, lambda i, j: tirx.max(y[i, j], tirx.const(0.0, "float32")))


def library(tokens: int, output_index=(0, 1)) -> Library:
    inputs = (TensorSpec("x", (tokens, COLS), "float32"),)
    outputs = tuple(TensorSpec(f"y{i}", (tokens, COLS if i == 2 else ROWS), "float32") for i in output_index)
    return Library(executable(tokens), {"fc.weight": WEIGHT.copy()}, inputs, outputs, TARGET, output_index)


def compiled(tokens: int | None = 3, output_index=(0, 1), **options) -> Compiled:
    """`tokens` may change from call to call; None: nothing compiled yet."""
    options = {"specialize": lambda values: library(values[0].shape[0], output_index)} | options
    outputs = tuple(TensorSpec(f"y{i}", ("tokens", COLS if i == 2 else ROWS), "float32") for i in output_index)
    result = Compiled(inputs=(TensorSpec("x", ("tokens", COLS), "float32"),), outputs=outputs, target=TARGET, report=REPORT, **options)
    if tokens is not None:
        result.add_library(library(tokens, output_index))
    return result


def example(tokens: int = 3) -> np.ndarray:
    return np.random.default_rng(tokens).standard_normal((tokens, COLS)).astype(np.float32)
