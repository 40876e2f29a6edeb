"""Structured matrices in the place of MiniLM's layers: what they cost in error, and what they gain, compiled and in a stock onnxruntime.

    python -m benchmarks.structures [--threads 2] [--seconds 5] [--sentences 32]

Errors: for every linear layer of the encoder ‖(W − W')X‖ / ‖WX‖ on sentences that no projection saw; for the whole model the mean
cosine to the dense embeddings. Times: one layer in the generated kernels, and as `OnnxGraph` writes it in onnxruntime, dense and
structured in turns, at a quarter of the work.
Writes benchmarks/results/structures.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track

from benchmarks import structured_kernels
from benchmarks.machine import machine
from benchmarks.peers import Call, OnnxRuntime, Workload
from benchmarks.results import markdown_table, write
from benchmarks.structured_kernels import Shape
from models import minilm
from sparsecc import structures
from sparsecc.calibration.context import Context
from sparsecc.calibration.statistics import second_moments
from sparsecc.errors import Refused
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear
from sparsecc.ops.structured_linear import StructuredLinear
from sparsecc.passes.substitute import Substitute, relative_error
from sparsecc.timing import Timing, interleave, speedup

if TYPE_CHECKING:
    from sparsecc.structures.base import Structure

SHARES = (0.5, 0.25)
PROJECTIONS = (("low_rank", False), ("low_rank", True), ("monarch", True))
LAYERS = (r"re:encoder\..*",)
SHAPES = ((3072, 768), (768, 3072))  # rows, cols
TOKENS = (128, 512)
BLOCKS = ((2, 2), (4, 4), (8, 8), (16, 16), (4, 16), (16, 4))  # of monarch, inputs × outputs


@dataclass(frozen=True)
class Way:
    """What is asked for. calibrated: with the inputs that the layers have on the calibration sentences."""

    structure: str
    params: float
    calibrated: bool

    @property
    def name(self) -> str:
        return f"{self.structure}, {'calibrated' if self.calibrated else 'plain'}"


@dataclass(frozen=True)
class Outcome:
    """What came of it, on held-out sentences. errors: relative, of each layer's output.  seen: the same as the pass saw it, on the
    calibration sentences.  cosine: of the embeddings to the dense model's, mean."""

    way: Way
    keys: dict[str, str]
    errors: dict[str, float]
    seen: dict[str, float]
    cosine: float


WAYS = [Way(structure, share, calibrated) for share in SHARES for structure, calibrated in PROJECTIONS]


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    shapes = [Shape(*shape, tokens) for shape in SHAPES for tokens in TOKENS]
    kernels, times = [], []
    for shape in track(shapes, "timing", transient=True):
        found = candidates(shape.rows, shape.cols)
        kernels += structured_kernels.measure(shape, found, arguments.threads, arguments.seconds)
        times += layer_times(shape, found, arguments.threads, arguments.seconds)
    calibration = list(minilm.calibration(arguments.sentences))
    held_out = [minilm.tokenize([text]) for text in minilm.held_out(arguments.sentences)]
    graph = FxGraph.from_module(minilm.build(), calibration[0])
    outcomes = [substituted(graph, way, calibration, held_out) for way in track(WAYS, "projecting", transient=True)]
    document = {
        "machine": machine(),
        "threads": arguments.threads,
        "sentences": arguments.sentences,
        "minilm": [asdict(outcome) for outcome in outcomes],
        "kernels": kernels,
        "times": times,
    }
    text = f"{markdown(outcomes, times, arguments.threads)}\n\n{structured_kernels.table(kernels, arguments.threads)}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    for path in write("structures", document, text):
        console.print(f"wrote {path}")
    return 0 if structured_kernels.holds(kernels) else 1


def substituted(graph: FxGraph, way: Way, calibration: Sequence[Any], held_out: Sequence[Any]) -> Outcome:
    """Every linear layer of the encoder."""
    step = Substitute(targets=LAYERS, structure=way.structure, params=way.params)
    context = Context(calibration=calibration if way.calibrated else None)
    matches = list(step.find(graph, context))
    result, sites = graph.copy(), graph.sites(Linear, LAYERS)
    for match in matches:
        if not isinstance(match.action, Refused):
            step.rewrite(result, match.site, match.action)
    after = result.sites(Linear, LAYERS)
    inputs = second_moments(graph, sites, Context(calibration=held_out))
    errors = {a.name: relative_error(a.matrix, b.matrix, stats["hessian"]) for a, b, stats in zip(sites, after, inputs, strict=True)}
    cosines = []
    for sentence in held_out:
        dense, ours = (minilm.embed(of.run(sentence).outputs[0], sentence[1]) for of in (graph, result))
        cosines.append(float((dense * ours).sum()))
    keys = {site.name: site.form.key for site in after if site.form is not None}
    seen = {match.site.name: match.action.error for match in matches}
    return Outcome(way, keys, errors, seen, float(np.mean(cosines)))


def candidates(rows: int, cols: int) -> list[Structure]:
    """What has at most a quarter of the parameters and of the work."""
    quarter = rows * cols // 4
    monarchs = [structures.from_key(f"monarch:{b}x{p}:{quarter // (p * cols + b * rows)}") for b, p in BLOCKS]
    return [*structures.sized("low_rank", rows, cols, 0.25), *monarchs, *structures.sized("kronecker", rows, cols, 0.25)]


def layer_times(shape: Shape, candidates: Sequence[Structure], threads: int, seconds: float) -> list[dict[str, Any]]:
    """The dense layer and its structures in onnxruntime, from one interleaved run."""
    rows, cols, tokens = shape.rows, shape.cols, shape.tokens
    with tempfile.TemporaryDirectory() as folder:
        calls = {"dense": _call(_layer(rows, cols), Path(folder), tokens, threads)}
        for structure in candidates:
            calls[structure.key] = _call(_substituted(rows, cols, structure), Path(folder), tokens, threads)
        timings = interleave(calls, seconds=seconds)
    return [_time_row(timings, name, rows, cols, tokens) for name in timings]


def _time_row(timings: dict[str, Timing], name: str, rows: int, cols: int, tokens: int) -> dict[str, Any]:
    params = 1.0 if name == "dense" else structures.from_key(name).params(rows, cols) / (rows * cols)
    over_dense = speedup(timings[name], timings["dense"]).to_dict()
    return {"rows": rows, "cols": cols, "tokens": tokens, "params": params, **timings[name].to_dict(), "times_dense": over_dense}


def _layer(rows: int, cols: int) -> OnnxGraph:
    """x[1, tokens, cols] → MatMul, Add, as torch exports a linear layer."""
    generator = np.random.default_rng(0)
    weights = {
        "fc.weight": generator.standard_normal((cols, rows)).astype(np.float32),
        "fc.bias": generator.standard_normal(rows).astype(np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["h"]), helper.make_node("Add", ["h", "fc.bias"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", size]) for name, size in (("x", cols), ("y", rows)))
    graph = helper.make_graph(nodes, "layer", [x], [y], [numpy_helper.from_array(array, name) for name, array in weights.items()])
    return OnnxGraph.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def _substituted(rows: int, cols: int, structure: Structure) -> OnnxGraph:
    graph = _layer(rows, cols)
    [site] = graph.sites(Linear)
    graph.replace(site, StructuredLinear(structure.project(site.weight), site.bias))
    return graph


def _call(graph: OnnxGraph, folder: Path, tokens: int, threads: int) -> Call:
    path = folder / "layer.onnx"
    onnx.save(graph.proto(), path)
    x = np.random.default_rng(1).standard_normal((1, tokens, graph.sites(Linear)[0].cols)).astype(np.float32)
    return OnnxRuntime().load(Workload("layer", path, {"x": x}), threads)


def markdown(outcomes: Sequence[Outcome], times: Sequence[dict[str, Any]], threads: int) -> str:
    parts = [
        "all-MiniLM-L6-v2, every linear layer of the encoder projected, nothing trained after it: relative error of each layer's output, "
        "median (least to largest) over the six layers of a kind, and the mean cosine of the embeddings to the dense ones, "
        "all on held-out sentences.",
        _error_table(outcomes),
        *(_comparison(outcomes, share) for share in dict.fromkeys(outcome.way.params for outcome in outcomes)),
        f"One layer in a stock onnxruntime, fp32, {threads} threads, dense and structured in turns, at most a quarter of the parameters.",
        markdown_table(
            ["layer", "tokens", "structure", "params", "ms", "p10-p90", "times dense", "p10-p90"], [_time_cells(row) for row in times]
        ),
    ]
    return "\n\n".join(parts)


def _error_table(outcomes: Sequence[Outcome]) -> str:
    kinds = list(dict.fromkeys(_kind(layer) for layer in outcomes[0].errors))
    lines = []
    for outcome in outcomes:
        spreads = []
        for kind in kinds:
            errors = [error for layer, error in outcome.errors.items() if _kind(layer) == kind]
            spreads.append(f"{np.median(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})")
        lines.append([outcome.way.name, outcome.way.params, *spreads, f"{outcome.cosine:.3f}"])
    return markdown_table(["structure", "params", *kinds, "cosine"], lines)


def _comparison(outcomes: Sequence[Outcome], share: float) -> str:
    """How often calibration helps low rank, and what `auto` would take: the least error on the calibration sentences."""
    plain, calibrated, monarch = (
        next(outcome for outcome in outcomes if outcome.way == Way(structure, share, known)) for structure, known in PROJECTIONS
    )
    layers = plain.errors
    better = sum(calibrated.errors[layer] < plain.errors[layer] for layer in layers)
    auto = sum(monarch.seen[layer] < calibrated.seen[layer] for layer in layers)
    return (
        f"At {share} of the parameters: calibrated low rank beats plain in {better} of {len(layers)} layers; "
        f"`auto`, calibrated, takes monarch in {auto}."
    )


def _kind(layer: str) -> str:
    """attention.self.query of encoder.layer.0.attention.self.query."""
    return layer.split(".", 3)[-1]


def _time_cells(row: dict[str, Any]) -> list[Any]:
    ms, ratio = row["ms"], row["times_dense"]
    return [
        f"{row['cols']} → {row['rows']}", row["tokens"], row["name"], f"{row['params']:.3f}", f"{ms['median']:.2f}",
        f"{ms['p10']:.2f}-{ms['p90']:.2f}", f"{ratio['median']:.2f}", f"{ratio['p10']:.2f}-{ratio['p90']:.2f}",
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structures", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="per shape and engine, over all candidates (default 5)")
    parser.add_argument("--sentences", type=int, default=32, help="to calibrate with, and as many others to judge by (default 32)")
    return parser


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
