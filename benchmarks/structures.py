"""Structured matrices in the place of MiniLM's layers: what they cost in error, and what they gain in a stock onnxruntime.

    python -m benchmarks.structures [--threads 2] [--seconds 5] [--sentences 32]

Errors: for every linear layer of the encoder ‖(W − W')X‖ / ‖WX‖ on sentences that no projection saw; for the whole model the mean
cosine to the dense embeddings. Times: one layer as `OnnxGraph` writes it, dense and structured in turns, at a quarter of the work.
Writes benchmarks/results/structures.json and .md.
"""

from __future__ import annotations

import argparse
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

from benchmarks.machine import machine
from benchmarks.peers import Call, OnnxRuntime, Workload
from benchmarks.results import markdown_table, write
from models import minilm
from sparsecc import structures
from sparsecc.graph.fx import FxGraph
from sparsecc.graph.onnx import OnnxGraph
from sparsecc.graph.sites import Linear
from sparsecc.ops.structured_linear import StructuredLinear
from sparsecc.passes._calibrate import covariances
from sparsecc.passes.base import Context
from sparsecc.passes.substitute import Substitute, relative_error
from sparsecc.timing import Timing, interleave, speedup

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.structures.base import Structure

SHARES = (0.5, 0.25)
LAYERS = (r"re:encoder\..*",)
SHAPES = ((3072, 768), (768, 3072))  # rows, cols
TOKENS = (128, 512)
BLOCKS = ((2, 2), (4, 4), (8, 8), (16, 16), (4, 16), (16, 4))  # of monarch, inputs × outputs


@dataclass(frozen=True)
class LayerErrors:
    """Output errors of one layer on held-out sentences. auto: the structure with the least error on the calibration sentences."""

    layer: str
    params: float
    low_rank: float
    low_rank_whitened: float
    monarch: float
    auto: str


@dataclass(frozen=True)
class ModelCosine:
    """Mean cosine of the embeddings to the dense model's, on held-out sentences."""

    structure: str
    params: float
    calibrated: bool
    cosine: float


def main() -> None:
    arguments = _parser().parse_args()
    console = Console()
    calibration = list(minilm.calibration(arguments.sentences))
    held_out = [minilm.tokenize([text]) for text in minilm.held_out(arguments.sentences)]
    graph = FxGraph.from_module(minilm.build(), calibration[0])
    errors = [row for share in SHARES for row in layer_errors(graph, share, calibration, held_out)]
    cosines = [
        model_cosine(graph, structure, share, samples, held_out)
        for share in SHARES
        for structure in ("low_rank", "monarch", "auto")
        for samples in (None, calibration)
        if samples or structure != "auto"
    ]
    times = [row for shape in SHAPES for tokens in TOKENS for row in layer_times(*shape, tokens, arguments.threads, arguments.seconds)]
    document = {
        "machine": machine(),
        "threads": arguments.threads,
        "sentences": arguments.sentences,
        "layers": [asdict(row) for row in errors],
        "model": [asdict(row) for row in cosines],
        "times": times,
    }
    text = markdown(errors, cosines, times, arguments.threads)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    for path in write("structures", document, text):
        console.print(f"wrote {path}")


def layer_errors(graph: FxGraph, share: float, calibration: Sequence[Any], held_out: Sequence[Any]) -> list[LayerErrors]:
    sites = graph.sites(Linear, LAYERS)
    seen, unseen = (covariances(graph, sites, Context(calibration=samples)) for samples in (calibration, held_out))
    rows = zip(sites, seen, unseen, strict=True)
    return [_layer_errors(site, share, *both) for site, *both in track(rows, f"layers at {share}", len(sites), transient=True)]


def _layer_errors(site: Linear, share: float, seen: Tensor, unseen: Tensor) -> LayerErrors:
    matrix = site.matrix

    def projected(structure: Structure, covariance: Tensor | None = None) -> Tensor:
        return structure.project(matrix, covariance).dense()

    [low_rank] = structures.sized("low_rank", site.rows, site.cols, share)
    found = {structure.key: projected(structure) for structure in structures.sized("monarch", site.rows, site.cols, share)}
    whitened = projected(low_rank, seen)
    candidates = {**found, low_rank.key: whitened}
    on_seen = {key: relative_error(matrix, dense, seen) for key, dense in candidates.items()}
    return LayerErrors(
        layer=site.name,
        params=share,
        low_rank=relative_error(matrix, projected(low_rank), unseen),
        low_rank_whitened=relative_error(matrix, whitened, unseen),
        monarch=relative_error(matrix, found[min(found, key=lambda key: on_seen[key])], unseen),
        auto=min(candidates, key=lambda key: on_seen[key]),
    )


def model_cosine(graph: FxGraph, structure: str, share: float, samples: Sequence[Any] | None, held_out: Sequence[Any]) -> ModelCosine:
    result = Substitute(targets=LAYERS, structure=structure, params=share).apply(graph, Context(calibration=samples))
    cosines = []
    for inputs in held_out:
        dense, ours = (minilm.embed(of.run(inputs).outputs[0], inputs[1]) for of in (graph, result.graph))
        cosines.append(float((dense * ours).sum()))
    return ModelCosine(structure, share, samples is not None, float(np.mean(cosines)))


def layer_times(rows: int, cols: int, tokens: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """The dense layer and its structures at a quarter of its parameters, from one interleaved run."""
    quarter = rows * cols // 4
    candidates = [*structures.sized("low_rank", rows, cols, 0.25)]
    candidates += [structures.from_key(f"monarch:{b}x{p}:{quarter // (p * cols + b * rows)}") for b, p in BLOCKS]
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


def markdown(errors: Sequence[LayerErrors], cosines: Sequence[ModelCosine], times: Sequence[dict[str, Any]], threads: int) -> str:
    better = sum(row.low_rank_whitened < row.low_rank for row in errors)
    parts = [
        "all-MiniLM-L6-v2, relative output error per layer on held-out sentences, median (least to largest) over the six layers of a kind. "
        f"Whitened low rank beats plain at {better} of {len(errors)}.",
        _error_table(errors),
        "The whole encoder substituted, nothing trained after it: mean cosine of the embeddings to the dense ones on held-out sentences.",
        markdown_table(
            ["structure", "params", "calibrated", "cosine"],
            [[row.structure, row.params, "yes" if row.calibrated else "no", f"{row.cosine:.3f}"] for row in cosines],
        ),
        f"One layer in a stock onnxruntime, fp32, {threads} threads, dense and structured in turns, at most a quarter of the parameters.",
        markdown_table(
            ["layer", "tokens", "structure", "params", "ms", "p10-p90", "times dense", "p10-p90"], [_time_cells(row) for row in times]
        ),
    ]
    return "\n\n".join(parts)


def _error_table(errors: Sequence[LayerErrors]) -> str:
    kinds: dict[tuple[float, str], list[LayerErrors]] = {}
    for row in errors:
        kinds.setdefault((row.params, row.layer.split(".", 3)[-1]), []).append(row)
    lines = []
    for (params, kind), rows in kinds.items():
        columns = [[getattr(row, name) for row in rows] for name in ("low_rank", "low_rank_whitened", "monarch")]
        chosen = sum(row.auto.startswith("monarch") for row in rows)
        spread = [f"{np.median(column):.3f} ({min(column):.3f} to {max(column):.3f})" for column in columns]
        lines.append([kind, params, *spread, f"{chosen} of {len(rows)}"])
    return markdown_table(["layer", "params", "low_rank, plain", "low_rank, whitened", "monarch, best blocks", "auto takes monarch"], lines)


def _time_cells(row: dict[str, Any]) -> list[Any]:
    ms, ratio = row["ms"], row["times_dense"]
    return [
        f"{row['cols']} → {row['rows']}", row["tokens"], row["name"], f"{row['params']:.3f}", f"{ms['median']:.2f}",
        f"{ms['p10']:.2f}-{ms['p90']:.2f}", f"{ratio['median']:.2f}", f"{ratio['p10']:.2f}-{ratio['p90']:.2f}",
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structures", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="per shape, over all candidates (default 5)")
    parser.add_argument("--sentences", type=int, default=32, help="to calibrate with, and as many others to judge by (default 32)")
    return parser


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
