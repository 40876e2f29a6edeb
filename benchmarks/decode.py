"""One linear layer for one token, as in the decoding of a language model: what reading fewer bytes of weights gains.

    python -m benchmarks.decode [--threads 2] [--seconds 8] [--tokens 1]

The generated kernels and onnxruntime (one fp32 MatMul with its weight as initializer) in turns, twice over: warm, where calls of a layer
follow each other, and cold, where they go round copies that no cache holds together, as the layers of a model do.
Writes benchmarks/results/decode.json and .md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track

from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Workload, max_relative_error
from benchmarks.promises import Promise, promise_of
from benchmarks.results import markdown_table, promise, write
from sparsecc.codegen import tvm_api
from sparsecc.codegen.kernels import dense_matvec, group_features, nm_group_matvec, nm_matvec, row_block_matvec
from sparsecc.codegen.kernels.base import MatmulSpec
from sparsecc.codegen.kernels.group_tokens import GroupSpec
from sparsecc.codegen.kernels.groups import LEVELS
from sparsecc.codegen.target import Target, detect, shared_cache_bytes
from sparsecc.codegen.threads import use_threads
from sparsecc.runtime import roofline
from sparsecc.timing import Spread, Timing, interleave, speedup

SHAPES = ((4096, 4096), (14336, 4096))  # rows, cols
RIVAL = "onnxruntime fp32"
AT_LEAST = {"dense fp32": 1.0, "16x1 fp32": 1.7, "2:4 fp32": 1.5, "2:4 int8": 2.5}  # times the rival, warm, for one token

Call = Callable[[], Any]


@dataclass(frozen=True)
class Candidate:
    """copies: calls of the layer with weights of their own.  bytes: of the weights as they are stored.  error: relative to float64."""

    kernel: str
    bytes: int
    error: float
    copies: Sequence[Call]

    @property
    def warm(self) -> Call:
        return self.copies[0]

    @property
    def cold(self) -> Call:
        around = itertools.cycle(self.copies)
        return lambda: next(around)()


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    document = measured(arguments.threads, arguments.seconds, console, arguments.tokens)
    text = table(document)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    for path in write("decode", document, text):
        console.print(f"wrote {path}")
    return 0 if holds(document["rows"]) else 1


def measured(threads: int, seconds: float, console: Console, tokens: int = 1) -> dict[str, Any]:
    """seconds: for each layer, warm and again cold."""
    target = detect(threads)
    use_threads(threads)
    dram = roofline.measure(target).bytes_per_s["dram"]
    rows: list[dict[str, Any]] = []
    for shape in track(SHAPES, "timing", transient=True, console=console):
        rows += measure(MatmulSpec.linear(*shape, tokens, 1), target, seconds, shared_cache_bytes())
    return {"machine": machine(), "threads": threads, "dram_bytes_per_s": dram, "rows": rows}


def table(document: Mapping[str, Any]) -> str:
    return markdown(document["rows"], document["threads"], document["dram_bytes_per_s"])


def promises(document: Mapping[str, Any]) -> list[Promise]:
    return [
        promise_of(row, f"linear {row['cols']} → {row['rows']}, {row['tokens']} token", RIVAL, row["times_rival"])
        for row in document["rows"]
        if row["at_least"]
    ]


def measure(spec: MatmulSpec, target: Target, seconds: float, cache: int) -> list[dict[str, Any]]:
    """A row for each candidate. spec: of a few tokens.  cache: bytes of the largest, which the copies of a layer exceed twice over."""
    rng = np.random.default_rng(0)
    matrix, x = rng.standard_normal((spec.rows, spec.depth), np.float32), rng.standard_normal(spec.x_shape, np.float32)
    candidates = {RIVAL: _onnxruntime(matrix, x, target.threads, cache)}
    candidates |= {name: make(spec, matrix, x, target, cache) for name, make in _KERNELS.items()}
    found = []
    for temperature in ("warm", "cold"):
        calls = {name: getattr(candidate, temperature) for name, candidate in candidates.items()}
        timings = interleave(calls, seconds=seconds)
        found += [_row(spec, temperature, candidate, timings[name], timings[RIVAL]) for name, candidate in candidates.items()]
    return found


def _row(spec: MatmulSpec, temperature: str, candidate: Candidate, timing: Timing, rival: Timing) -> dict[str, Any]:
    faster = speedup(timing, over=rival)
    at_least = AT_LEAST.get(timing.name) if temperature == "warm" and spec.batch == 1 else None
    return {
        **timing.to_dict(),
        "rows": spec.rows,
        "cols": spec.depth,
        "tokens": spec.batch,
        "weights": temperature,
        "kernel": candidate.kernel,
        "bytes": candidate.bytes,
        "error": candidate.error,
        "times_rival": faster.to_dict(),
        "at_least": at_least,
        "reached": None if at_least is None else faster.median >= at_least,
    }


def holds(rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(row["reached"] is not False for row in rows)


def _copies(size: int, cache: int) -> int:
    return 1 + 2 * cache // size


def _onnxruntime(matrix: np.ndarray, x: np.ndarray, threads: int, cache: int) -> Candidate:
    rows, cols = matrix.shape
    tokens = len(x)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [tokens, size]) for name, size in (("x", cols), ("y", rows))]
    weight = numpy_helper.from_array(np.ascontiguousarray(matrix.T), "weight")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "layer", [info[0]], [info[1]], [weight])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
        workload = Workload("layer", path, {"x": x[:, :, 0]})
        calls = [OnnxRuntime().load(workload, threads) for _ in range(_copies(matrix.nbytes, cache))]
    return Candidate("MatMul", matrix.nbytes, _error(calls[0]()[0], matrix, x), calls)


def _error(y: np.ndarray, matrix: np.ndarray, x: np.ndarray) -> float:
    return max_relative_error([y], [x[:, :, 0].astype(np.float64) @ matrix.T.astype(np.float64)])


def _dense(spec: MatmulSpec, matrix: np.ndarray, x: np.ndarray, target: Target, cache: int) -> Candidate:
    return _candidate(dense_matvec, spec, dense_matvec.space(spec, target)[0], matrix, x, target, cache)


def _row_blocks(spec: MatmulSpec, matrix: np.ndarray, x: np.ndarray, target: Target, cache: int) -> Candidate:
    """Half of the blocks of 16 outputs × 1 input."""
    keep = np.random.default_rng(1).random((spec.rows // 16, spec.depth)) < 0.5
    pruned = matrix * np.repeat(keep, 16, axis=0)
    return _candidate(row_block_matvec, spec, row_block_matvec.space(spec, 16, target)[0], pruned, x, target, cache)


def _two_of_four(matrix: np.ndarray) -> np.ndarray:
    groups = matrix.reshape(len(matrix), -1, 4)
    rank = np.argsort(np.argsort(-np.abs(groups), axis=2), axis=2)
    return (groups * (rank < 2)).reshape(matrix.shape)


def _nm(spec: MatmulSpec, matrix: np.ndarray, x: np.ndarray, target: Target, cache: int) -> Candidate:
    return _candidate(nm_matvec, spec, nm_matvec.space(spec, 2, target)[0], _two_of_four(matrix), x, target, cache)


def _candidate(
    kernel: ModuleType, spec: MatmulSpec, knobs: Any, matrix: np.ndarray, x: np.ndarray, target: Target, cache: int
) -> Candidate:
    weights = kernel.prepare(matrix, None, spec, knobs)
    function = tvm_api.compile_function(kernel.build(spec, knobs, target), target.llvm)
    inputs, y = tvm_api.tensor(x), tvm_api.tensor(np.zeros(spec.y_shape, np.float32))

    def copy() -> Call:
        tensors = [tvm_api.tensor(array) for array in weights]
        return lambda: function(inputs, *tensors, tensors[-1], y)  # the bias is last, and stands for the residual

    return _checked(kernel, weights, copy, y, matrix, x, cache)


def _nm_int8(spec: MatmulSpec, matrix: np.ndarray, x: np.ndarray, target: Target, cache: int) -> Candidate:
    """Of each call, the activations' rounding is a part."""
    narrow, pruned = replace(spec, dtype="int8"), _two_of_four(matrix)
    scales = np.abs(pruned).max(axis=1) / np.float32(LEVELS)
    knobs = nm_group_matvec.space(narrow, 2, target)[0]
    weights = nm_group_matvec.prepare(np.rint(pruned / scales[:, None]).astype(np.int8), None, narrow, knobs, scales, target)
    group_spec = GroupSpec(spec.batch, spec.depth, 1, "int8")
    group = tvm_api.compile_function(group_features.build(group_spec, target), target.llvm)
    function = tvm_api.compile_function(nm_group_matvec.build(narrow, knobs, target), target.llvm)
    inputs, y = tvm_api.tensor(x), tvm_api.tensor(np.zeros(spec.y_shape, np.float32))
    unused = tvm_api.tensor(np.zeros(1, np.float32))
    grouped = [tvm_api.tensor(np.zeros(shape, dtype)) for shape, dtype in group_spec.outputs]

    def copy() -> Call:
        tensors = [tvm_api.tensor(array) for array in weights]

        def call() -> None:
            group(inputs, unused, *grouped)
            function(*grouped, *tensors, tensors[-1], y)

        return call

    return _checked(nm_group_matvec, weights, copy, y, pruned, x, cache)


def _checked(
    kernel: ModuleType, weights: Sequence[np.ndarray], copy: Callable[[], Call], y: Any, matrix: np.ndarray, x: np.ndarray, cache: int
) -> Candidate:
    size = sum(array.nbytes for array in weights)
    copies = [copy() for _ in range(_copies(size, cache))]
    copies[0]()
    return Candidate(kernel.__name__.rpartition(".")[2], size, _error(y.numpy()[:, :, 0], matrix, x), copies)


_KERNELS = {"dense fp32": _dense, "16x1 fp32": _row_blocks, "2:4 fp32": _nm, "2:4 int8": _nm_int8}


def markdown(rows: Sequence[Mapping[str, Any]], threads: int, dram: float) -> str:
    head = [
        "layer", "tokens", "weights", "what", "MB", "ms", "p10-p90", "GB/s", f"times {RIVAL}", "p10-p90", "at least", "error"
    ]  # fmt: skip
    return (
        f"One linear layer, {threads} threads, all in turns. Half of the weights are zeros, except in dense ones. Warm: calls of a layer "
        "follow each other, so that part of its weights is in the cache; cold: they go round copies that no cache holds together, as the "
        "layers of a model do. MB: of the weights as they are stored; GB/s: the same over the time, where reading alone reaches "
        f"{dram / 1e9:.0f} from memory. int8 takes fp32 in and gives fp32: rounding the activations is in its time. Errors are relative "
        "to the largest output of the same weights in float64.\n\n"
        f"{markdown_table(head, [_cells(row) for row in rows])}"
    )


def _cells(row: Mapping[str, Any]) -> list[Any]:
    ms, faster = Spread(**row["ms"]), Spread(**row["times_rival"])
    return [
        f"{row['cols']} → {row['rows']}", row["tokens"], row["weights"], row["name"], f"{row['bytes'] / 1e6:.1f}",
        f"{ms.median:.3f}", f"{ms.p10:.3f}-{ms.p90:.3f}", f"{row['bytes'] / ms.median / 1e6:.0f}",
        f"{faster.median:.2f}", f"{faster.p10:.2f}-{faster.p90:.2f}",
        promise(row),
        f"{row['error']:.1g}",
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="per layer, warm and again cold, over all candidates (default 8)")
    parser.add_argument("--tokens", type=int, default=1, help="1 to 8; only for 1 something is promised (default 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
