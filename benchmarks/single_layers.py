"""Layers of kinds that the engine was not built around, one a model, dense in fp32: sparsecc against onnxruntime.

    python -m benchmarks.single_layers [--threads 2] [--seconds 10] [--only TEXT]

Each engine has a process of its own, and they take turns: in one process either would find the other's threads spinning. Before anything is
timed, both have to agree. Writes benchmarks/results/single_layers-THREADS.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Sparsecc, Workload, max_relative_error
from benchmarks.processes import in_turns, started
from benchmarks.promises import Promise, promise_of, promise_table
from benchmarks.results import write
from sparsecc.api import TOLERANCE
from sparsecc.timing import speedup

AT_LEAST = 0.7
BASELINE, OURS = OnnxRuntime(), Sparsecc(recipe={"passes": []})


@dataclass(frozen=True)
class Layer:
    """One operator with inputs x and the constant w."""

    name: str
    operator: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


LAYERS = (
    Layer("Conv1d 256, kernel 3", "Conv", (1, 256, 500), (256, 256, 3), {"pads": [1, 1]}),
    Layer("Conv1d 512, kernel 3, stride 2", "Conv", (1, 512, 1000), (512, 512, 3), {"pads": [1, 1], "strides": [2]}),
    Layer("ConvTranspose1d 128 to 64, kernel 8, stride 4", "ConvTranspose", (1, 128, 200), (128, 64, 8), {"pads": [2, 2], "strides": [4]}),
    Layer(
        "ConvTranspose2d 64 to 32, kernel 4, stride 2",
        "ConvTranspose",
        (1, 64, 32, 32),
        (64, 32, 4, 4),
        {"pads": [1] * 4, "strides": [2, 2]},
    ),
    Layer(
        "ConvTranspose2d 64 to 32, kernel 3, stride 2",
        "ConvTranspose",
        (1, 64, 32, 32),
        (64, 32, 3, 3),
        {"pads": [1] * 4, "strides": [2, 2], "output_padding": [1, 1]},
    ),
    Layer("MatMul [1, 256, 256], 128 tokens", "MatMul", (1, 128, 256), (1, 256, 256)),
    Layer("MatMul [1, 768, 3072], 128 tokens", "MatMul", (1, 128, 768), (1, 768, 3072)),
    Layer("Einsum btd,dhk->bhtk, 128 tokens", "Einsum", (1, 128, 256), (256, 4, 64), {"equation": "btd,dhk->bhtk"}),
)


def model_of(layer: Layer) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array((rng.standard_normal(layer.w) / 16).astype(np.float32), "w")
    node = helper.make_node(layer.operator, ["x", "w"], ["y"], **layer.attributes)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", layer.x), ("y", None)))
    return helper.make_model(
        helper.make_graph([node], "layer", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    layers = [layer for layer in LAYERS if arguments.only in layer.name]
    document = measured(arguments.threads, arguments.seconds, console, layers)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write(f"single_layers-{arguments.threads}", document, table) if not arguments.only else []:
        console.print(f"wrote {path}")
    return 0 if all(promise.reached for promise in promises(document)) else 1


def measured(threads: int, seconds: float, console: Console, layers: Sequence[Layer] = LAYERS) -> dict[str, Any]:
    """seconds: for the timing of each layer."""
    rows = []
    for layer in layers:
        with console.status(layer.name), tempfile.TemporaryDirectory() as folder:
            rows.append(_row(layer, threads, seconds, Path(folder)))
    return {"machine": machine(), "threads": threads, "baseline": BASELINE.name, "rows": rows}


def promises(document: dict[str, Any]) -> list[Promise]:
    return [promise_of(row, f"{document['threads']} threads", document["baseline"]) for row in document["rows"]]


def markdown(document: dict[str, Any]) -> str:
    return promise_table(promises(document))


def _row(layer: Layer, threads: int, seconds: float, folder: Path) -> dict[str, Any]:
    path = folder / "layer.onnx"
    onnx.save(model_of(layer), path)
    x = np.random.default_rng(1).standard_normal(layer.x).astype(np.float32)
    work = Workload(layer.name, path, {"x": x})
    with started([BASELINE], work, threads) as theirs, started([OURS], work, threads) as ours:
        [mine], [its] = ours.answers(OURS.name, [work.inputs]), theirs.answers(BASELINE.name, [work.inputs])
        error = max_relative_error(mine, its)
        if not error <= TOLERANCE:  # NaN too
            raise RuntimeError(f"{layer.name}: sparsecc and {BASELINE.name} disagree: relative error {error:.1e}, {TOLERANCE:g} allowed")
        timings = in_turns((theirs, ours), seconds)
    faster = speedup(timings[OURS.name], over=timings[BASELINE.name])
    times = {name: timing.to_dict()["ms"] for name, timing in timings.items()}
    return {
        "name": layer.name,
        "ms": times[OURS.name],
        "baseline_ms": times[BASELINE.name],
        "speedup": faster.to_dict(),
        "at_least": AT_LEAST,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10, help="for the timing of each layer; compiling comes on top")
    parser.add_argument("--only", default="", metavar="TEXT", help="only layers whose name contains this (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
