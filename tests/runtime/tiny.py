"""A compiled model small enough for every test: y = x·Wᵀ and relu(y), made without the rest of sparsecc."""

from __future__ import annotations

import functools
import platform
from types import SimpleNamespace
from typing import Any

import numpy as np

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.library import Library
from sparsecc.graph.base import TensorSpec
from sparsecc.report.base import Report, SiteReport
from sparsecc.runtime.compiled import Compiled

ROWS, COLS = 5, 24
TARGET = Target("generic", f"{platform.machine()}-linux-gnu", (), 128, 16, 32768, 1 << 20, 2)
WEIGHT = np.random.default_rng(0).standard_normal((ROWS, COLS)).astype(np.float32)
REPORT = Report(sparsecc="0.1.0", model="tiny", target="cpu", sites=(SiteReport(name="fc", kind="Linear", shape=(ROWS, COLS)),))


@functools.cache
def executable(tokens: int, returns: tuple[int, ...]):
    """`main(x[tokens, COLS], w[ROWS, COLS])` returns those of (y, relu(y), x)."""
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType(_shape(tokens, COLS), "float32"))
    w = relax.Var("w", relax.TensorType(_shape(ROWS, COLS), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        y = builder.emit_te(_matmul, x, w)
        r = builder.emit_te(_relu, y)
        builder.emit_func_output(relax.Tuple([(y, r, x)[i] for i in returns]))
    return tvm.compile(builder.get(), target=tvm.target.Target("llvm"))


def _shape(*sizes: Any) -> list[Any]:
    """TVM takes numbers where its annotations ask for expressions."""
    return list(sizes)


def _matmul(x, w):
    from tvm import te

    k = te.reduce_axis((0, COLS), "k")
    return te.compute((x.shape[0], ROWS), lambda i, j: te.sum(x[i, k] * w[j, k], axis=k))


def _relu(y):
    from tvm import te, tirx

    return te.compute(y.shape, lambda i, j: tirx.max(y[i, j], tirx.const(0.0, "float32")))


def library(tokens: int, returns=(0, 1), limits=None) -> Library:
    inputs = (TensorSpec("x", (tokens, COLS), "float32"),)
    outputs = tuple(TensorSpec(f"y{i}", (tokens, COLS if i == 2 else ROWS), "float32") for i in returns)
    return Library(executable(tokens, returns), {"fc.weight": WEIGHT.copy()}, inputs, outputs, TARGET, limits or {})


def compiled(tokens: int | None = 3, returns=(0, 1), **options) -> Compiled:
    """`tokens` may change from call to call; None: nothing compiled yet."""
    options = {"specialize": lambda values: library(values[0].shape[0], returns), "target": TARGET, "report": REPORT} | options
    outputs = tuple(TensorSpec(f"y{i}", ("tokens", COLS if i == 2 else ROWS), "float32") for i in returns)
    result = Compiled(inputs=(TensorSpec("x", ("tokens", COLS), "float32"),), outputs=outputs, **options)
    if tokens is not None:
        result.add_library(library(tokens, returns))
    return result


def fake_codegen(monkeypatch) -> list[tuple[int, ...]]:
    """Let codegen answer every question with this model; returns the list of shapes that it will be asked for."""
    from sparsecc import codegen
    from sparsecc.codegen.cpu import target as targets

    asked: list[tuple[int, ...]] = []
    choice = SimpleNamespace(
        site="fc",
        kernel="row_block_spmm",
        decision="dense",
        measured_us=3.0,
        dense_us=2.0,
        bound_us=1.5,
        predicted_us=2.5,
        reason="dense is 1.5x faster",
    )

    def build(graph, inputs, target, **options):
        asked.append(tuple(inputs[0].shape))
        return library(int(inputs[0].shape[0])), [choice]

    monkeypatch.setattr(codegen, "build", build, raising=False)
    monkeypatch.setattr(targets, "parse", lambda text, threads: TARGET, raising=False)
    return asked


def onnx_model():
    """The same model as ONNX."""
    from onnx import TensorProto, helper, numpy_helper

    info = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", size])
        for name, size in (("x", COLS), ("y", ROWS), ("r", ROWS))
    }
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"]), helper.make_node("Relu", ["y"], ["r"])]
    weight = numpy_helper.from_array(np.ascontiguousarray(WEIGHT.T), "fc.weight")
    graph = helper.make_graph(nodes, "tiny", [info["x"]], [info["y"], info["r"]], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def example(tokens: int = 3) -> np.ndarray:
    return np.random.default_rng(tokens).standard_normal((tokens, COLS)).astype(np.float32)
