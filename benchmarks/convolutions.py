"""Convolutional models end to end: sparsecc dense and pruned against onnxruntime, each model in one interleaved run.

    python -m benchmarks.convolutions [--threads 2] [--seconds 40] [--only opennsfw]

`1x1` rows prune the 1×1 convolutions alone. Before anything is timed, the dense model has to match onnxruntime, and every pruned one the
model with the same mask. Writes benchmarks/results/convolutions.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

import models
from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Workload
from benchmarks.promises import Promise, promise_of
from benchmarks.results import markdown_table, write
from benchmarks.rows import agree, cells, compile_row, entry, head
from models._recipes import prune_and_pack
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Conv2d
from sparsecc.timing import interleave

BASELINE = OnnxRuntime().name


@dataclass(frozen=True)
class Row:
    """targets: the layers to prune. at_least: see `benchmarks.rows`."""

    sparsity: float
    at_least: float | None
    targets: tuple[str, ...] = ("Conv2d",)
    which: str = ""

    @property
    def name(self) -> str:
        return f"sparsecc unstructured {self.sparsity:.0%}{self.which}" if self.sparsity else "sparsecc dense"

    @property
    def recipe(self) -> dict[str, Any] | None:
        return prune_and_pack(list(self.targets), "unstructured", self.sparsity) if self.sparsity else None


def rows_of(name: str, work: Workload) -> tuple[Row, ...]:
    if name == "opennsfw":
        return Row(0, 0.9), Row(0.8, 1.8), Row(0.9, 2.8)
    pointwise = pointwise_sites(OnnxGraph.from_file(work.onnx))
    return Row(0, 0.95), Row(0.8, 1.3, pointwise, " 1x1")


def pointwise_sites(graph: OnnxGraph) -> tuple[str, ...]:
    """Names of the 1×1 convolutions."""
    return tuple(site.name for site in graph.sites(Conv2d) if site.kernel == (1, 1) and site.groups == 1)


MODELS = {"opennsfw": "ResNet-50 (thin), 224×224", "pp_ocr_det": "PP-OCRv4 detector, 640×640"}


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    document = measured(arguments.threads, arguments.seconds, console, [arguments.only] if arguments.only else MODELS)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write("convolutions", document, table) if not arguments.only else []:
        console.print(f"wrote {path}")
    return 0 if all(row["reached"] is not False for model in document["models"] for row in model["rows"]) else 1


def measured(threads: int, seconds: float, console: Console, names: Iterable[str] = MODELS) -> dict[str, Any]:
    """seconds: for the timing of each model."""
    found = [_model(name, threads, seconds, console) for name in names]
    return {"machine": machine(), "threads": threads, "batch": 1, "baseline": BASELINE, "models": found}


def promises(document: dict[str, Any]) -> list[Promise]:
    return [promise_of(row, MODELS[model["model"]], BASELINE) for model in document["models"] for row in model["rows"] if row["at_least"]]


def _model(name: str, threads: int, seconds: float, console: Console) -> dict[str, Any]:
    model: Any = models.load(name)
    work = Workload(name, model.build(), model.example_inputs())
    calls = {BASELINE: OnnxRuntime().load(work, threads)}
    rows = rows_of(name, work)
    compiled = {}
    for row in rows:
        with console.status(f"compiling {name}, {row.name}"):
            compiled[row.name] = compile_row(row, work, threads)
    dense = {row.name: compiled[row.name].call for row in rows if row.recipe is None}
    errors = agree(calls | dense, BASELINE)
    calls |= {row: done.call for row, done in compiled.items()}
    with Progress(console=console) as bar:
        task = bar.add_task(f"timing {name}", total=1.0)
        timings = interleave(calls, seconds=seconds, progress=lambda share: bar.update(task, completed=share))
    return {"model": name, "rows": [entry(timings[call], timings[BASELINE], rows, compiled, errors) for call in calls]}


def markdown(document: dict[str, Any]) -> str:
    parts = []
    for model in document["models"]:
        title = f"{MODELS[model['model']]}, batch {document['batch']}, fp32, {document['threads']} threads"
        parts.append(f"{title}\n\n" + markdown_table(head(document["baseline"]), [cells(row) for row in model["rows"]]))
    return "\n\n".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=40, help="for the timing of each model; compiling comes on top")
    parser.add_argument("--only", choices=MODELS, help="only this model (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
