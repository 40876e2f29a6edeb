"""One linear layer for one token, as in the decoding of a language model: what reading fewer bytes of weights gains.

    python -m benchmarks.decode [--threads 2] [--seconds 8] [--tokens 1]

Layers that `sparsecc.compile` has pruned, quantized and packed, and onnxruntime (one fp32 MatMul with its weight as initializer), in turns,
twice over: warm, where calls of a layer follow each other, and cold, where they go round copies that no cache holds together, as the
layers of a model do. Writes benchmarks/results/decode.json and .md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from sparsecc.codegen.alignment import aligned_copy
from sparsecc.codegen.cpu import roofline
from sparsecc.codegen.cpu.target import detect, shared_cache_bytes
from sparsecc.runtime.compiled import Compiled
from sparsecc.runtime.weights import WeightStore
from sparsecc.timing import Spread, Timing, interleave, speedup

SHAPES = ((4096, 4096), (14336, 4096))  # rows, cols
RIVAL = "onnxruntime fp32"
PASSES: dict[str, list[dict[str, Any]]] = {
    "dense fp32": [],
    "16x1 fp32": [{"prune": {"pattern": "16x1", "sparsity": 0.5}}, {"pack": {}}],
    "2:4 fp32": [{"prune": {"pattern": "2:4"}}, {"pack": {}}],
    "2:4 int8": [{"prune": {"pattern": "2:4"}}, {"quantize": {}}, {"pack": {}}],
}
AT_LEAST = {"16x1 fp32": 1.7, "2:4 fp32": 1.5, "2:4 int8": 2.5}  # times the rival, warm, for one token

Call = Callable[[], Any]


@dataclass(frozen=True)
class Layer:
    """rows × cols for some tokens.  cache: bytes of the largest cache, which the copies of a layer exceed twice over."""

    rows: int
    cols: int
    tokens: int
    threads: int
    cache: int
    seconds: float

    def copies(self, size: int) -> int:
        return 1 + 2 * self.cache // size


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
    dram = roofline.bytes_per_s("dram", target)
    rows: list[dict[str, Any]] = []
    for shape in track(SHAPES, "timing", transient=True, console=console):
        rows += measure(Layer(*shape, tokens, threads, shared_cache_bytes(), seconds))
    return {"machine": machine(), "threads": threads, "dram_bytes_per_s": dram, "rows": rows}


def table(document: Mapping[str, Any]) -> str:
    return markdown(document["rows"], document["threads"], document["dram_bytes_per_s"])


def promises(document: Mapping[str, Any]) -> list[Promise]:
    return [
        promise_of(row, f"linear {row['cols']} → {row['rows']}, {row['tokens']} token", RIVAL, row["times_rival"])
        for row in document["rows"]
        if row["at_least"]
    ]


def measure(layer: Layer) -> list[dict[str, Any]]:
    """A row for each candidate, warm and cold."""
    rng = np.random.default_rng(0)
    matrix, x = (rng.standard_normal((count, layer.cols), np.float32) for count in (layer.rows, layer.tokens))
    candidates = {RIVAL: _onnxruntime(layer, matrix, x)}
    candidates |= {name: _compiled(layer, passes, matrix, x) for name, passes in PASSES.items()}
    found = []
    for temperature in ("warm", "cold"):
        calls = {name: getattr(candidate, temperature) for name, candidate in candidates.items()}
        timings = interleave(calls, seconds=layer.seconds)
        found += [_row(layer, temperature, candidate, timings[name], timings[RIVAL]) for name, candidate in candidates.items()]
    return found


def _row(layer: Layer, temperature: str, candidate: Candidate, timing: Timing, rival: Timing) -> dict[str, Any]:
    faster = speedup(timing, over=rival)
    at_least = AT_LEAST.get(timing.name) if temperature == "warm" and layer.tokens == 1 else None
    return {
        **timing.to_dict(),
        "rows": layer.rows,
        "cols": layer.cols,
        "tokens": layer.tokens,
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


def _onnxruntime(layer: Layer, matrix: np.ndarray, x: np.ndarray) -> Candidate:
    sizes = (("x", layer.cols), ("y", layer.rows))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [layer.tokens, size]) for name, size in sizes]
    weight = numpy_helper.from_array(np.ascontiguousarray(matrix.T), "weight")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "layer", [info[0]], [info[1]], [weight])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
        workload = Workload("layer", path, {"x": x})
        calls = [OnnxRuntime().load(workload, layer.threads) for _ in range(layer.copies(matrix.nbytes))]
    return Candidate("MatMul", matrix.nbytes, _error(calls[0]()[0], matrix, x), calls)


def _error(y: np.ndarray, matrix: np.ndarray, x: np.ndarray) -> float:
    return max_relative_error([y], [x.astype(np.float64) @ matrix.T.astype(np.float64)])


def _compiled(layer: Layer, passes: list[dict[str, Any]], matrix: np.ndarray, x: np.ndarray) -> Candidate:
    import torch

    import sparsecc

    module = torch.nn.Linear(layer.cols, layer.rows, bias=False, device="meta").eval()
    module.weight = torch.nn.Parameter(torch.from_numpy(matrix), requires_grad=False)
    recipe = {"passes": passes} if passes else None
    compiled = sparsecc.compile(module, (torch.from_numpy(x),), recipe=recipe, threads=layer.threads)
    compiled(x)  # holds its weights from then on
    size = sum(array.nbytes for array in compiled.held()[1].values())
    copies = [compiled, *(_copy(compiled) for _ in range(layer.copies(size) - 1))]
    report = compiled.report
    assert report.check is not None
    return Candidate(report.sites[0].kernel or "", size, report.check.max_rel, [partial(copy, x) for copy in copies])


def _copy(compiled: Compiled) -> Compiled:
    """The same code with weights of its own."""
    specializations, arrays = compiled.held()
    weights = WeightStore()
    for key, array in arrays.items():
        weights.adopt(key, aligned_copy(array))
    copy = Compiled(
        inputs=compiled.inputs,
        outputs=compiled.outputs,
        target=compiled.target,
        report=compiled.report,
        structure=compiled.structure,
        weights=weights,
    )
    for specialization in specializations:
        copy.add(specialization)
    return copy


def markdown(rows: Sequence[Mapping[str, Any]], threads: int, dram: float) -> str:
    head = [
        "layer", "tokens", "weights", "what", "MB", "ms", "p10-p90", "GB/s", f"times {RIVAL}", "p10-p90", "at least", "error"
    ]  # fmt: skip
    return (
        f"One linear layer through sparsecc.compile, {threads} threads, all in turns. Half of the weights are zeros, except in dense ones. "
        "Warm: calls of a layer follow each other, so that part of its weights is in the cache; cold: they go round copies that no cache "
        "holds together, as the layers of a model do. MB: of the weights as they are stored; GB/s: the same over the time, where reading "
        f"alone reaches {dram / 1e9:.0f} from memory. int8 takes fp32 in and gives fp32: rounding the activations is in its time. Errors "
        "are relative to the largest output of the layer with the same zeros, in fp32.\n\n"
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
