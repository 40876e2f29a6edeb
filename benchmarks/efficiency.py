"""A sparse linear layer over tokens and inputs: useful GFLOP/s of the kernel that compile picks, all cells in turns.

    python -m benchmarks.efficiency [--threads 2] [--seconds 60]

4x1 blocks, 70 % zeros, 1024 outputs. Useful: the zeros are not counted, whichever kernel is picked. The bound is the lower of the fp32
peak and what the smallest cache that holds weights, inputs and outputs can deliver.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, track

from benchmarks.machine import machine
from benchmarks.promises import Promise, promise_table
from benchmarks.results import markdown_table
from models._recipes import prune_and_pack
from sparsecc.codegen.calls import Way, recorded
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.cpu import threads as pool
from sparsecc.codegen.cpu.plan import Plan
from sparsecc.codegen.cpu.roofline import bound_us
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.recognize.program import Layer
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import bare
from sparsecc.timing import Spread, interleave

TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048)
INPUTS = (256, 768, 1024, 3072, 4096, 14336)
OUTPUTS = 1024
PATTERN, SPARSITY = "4x1", 0.7
LEAST = 0.6  # of the best cell's GFLOP/s
PART = f"linear to {OUTPUTS}, {PATTERN} {SPARSITY:.0%}, {TOKENS[0]} to {TOKENS[-1]} tokens × {INPUTS[0]} to {INPUTS[-1]} inputs"


@dataclass(frozen=True)
class Cell:
    """One layer.  flops: multiplications and additions with nonzero weights.  bytes: read and written."""

    tokens: int
    inputs: int
    kernel: str
    flops: float
    bytes: int
    call: Callable[[], None]

    @property
    def name(self) -> str:
        return f"{self.tokens}x{self.inputs}"


@dataclass
class _Keeping(Chooser[Target]):
    """Keeps what was chosen."""

    plans: list[tuple[MatmulSpec, Plan]] = field(default_factory=list)

    def choose(self, spec: MatmulSpec, layer: Layer) -> Way:
        plan = super().choose(spec, layer)
        assert isinstance(plan, Plan)
        self.plans.append((spec, plan))
        return plan


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    document = measured(arguments.threads, arguments.seconds, console)
    console.print(markdown(document), markup=False, highlight=False, soft_wrap=True)
    console.print(promise_table(promises(document)), markup=False, highlight=False, soft_wrap=True)
    return 0 if all(promise.reached for promise in promises(document)) else 1


def measured(
    threads: int, seconds: float, console: Console, tokens: tuple[int, ...] = TOKENS, inputs: tuple[int, ...] = INPUTS
) -> dict[str, Any]:
    """seconds: for the timing of all cells."""
    target = detect(threads)
    shapes = [(count, size) for size in inputs for count in tokens]
    cells = [_cell(*shape, target) for shape in track(shapes, "preparing layers", transient=True, console=console)]
    with Progress(console=console) as bar:
        task = bar.add_task("timing layers", total=1.0)
        calls = {cell.name: cell.call for cell in cells}
        timings = pool.run(threads, lambda: interleave(calls, seconds=seconds, progress=lambda done: bar.update(task, completed=done)))
    rows = [_row(cell, timings[cell.name].spread_ms, target) for cell in cells]
    return {"machine": machine(), "threads": threads, "outputs": OUTPUTS, "pattern": PATTERN, "sparsity": SPARSITY, "rows": rows}


def _cell(tokens: int, inputs: int, target: Target) -> Cell:
    import torch

    from sparsecc.api import sources
    from sparsecc.api.rewriting import rewrite
    from sparsecc.codegen import compiler
    from sparsecc.recipe import Recipe

    torch.manual_seed(0)
    model, example = torch.nn.Sequential(torch.nn.Linear(inputs, OUTPUTS)), torch.zeros(tokens, inputs)
    graph = sources.open_graph(model, (example,), None)
    recipe = Recipe.load(prune_and_pack(["re:.*"], PATTERN, SPARSITY))
    chooser = _Keeping(target)
    compiler.choose(rewrite(graph, recipe, None, [example], "layer").graph, [example], chooser)
    ((spec, plan),) = chooser.plans
    spec = bare(spec)
    recorded(tape := Tape(target, {}), plan, spec)
    moved = sum(array.nbytes for array in plan.weights) + 4 * tokens * (inputs + OUTPUTS)
    return Cell(tokens, inputs, plan.kernel, 2 * (1 - SPARSITY) * OUTPUTS * inputs * tokens, moved, tape.run)


def _row(cell: Cell, ms: Spread, target: Target) -> dict[str, Any]:
    bound = 1e6 * cell.flops / bound_us(cell.flops, cell.bytes, "float32", target)
    flops_per_s = cell.flops / ms.median * 1e3
    return {
        "tokens": cell.tokens,
        "inputs": cell.inputs,
        "kernel": cell.kernel,
        "ms": ms.to_dict(),
        "gflops": flops_per_s / 1e9,
        "bound_gflops": bound / 1e9,
        "of_bound": flops_per_s / bound,
    }


def promises(document: Mapping[str, Any]) -> list[Promise]:
    rows = document["rows"]
    best = max(row["gflops"] for row in rows)
    shares = [row["gflops"] / best for row in rows]
    worst = rows[int(np.argmin(shares))]
    low = Spread(min(shares), *(worst["ms"]["median"] / worst["ms"][end] * min(shares) for end in ("p90", "p10")))
    what = f"least useful GFLOP/s: {worst['tokens']} tokens × {worst['inputs']}"
    return [Promise(PART, what, f"best cell, {best:.0f} GFLOP/s", low, LEAST, ms=worst["ms"]["median"])]


def markdown(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    best = max(row["gflops"] for row in rows)
    bounds = [row["of_bound"] for row in rows]
    good = sum(row["gflops"] >= LEAST * best for row in rows)
    return (
        f"{PART}, {document['threads']} threads, the kernels alone. Useful GFLOP/s, in brackets the share of the bound (the fp32 peak, or "
        "the bandwidth of the cache that holds the layer), * where compile picks the dense kernel. "
        f"GFLOP/s: {min(row['gflops'] for row in rows):.0f} to {best:.0f}; of the bound: {min(bounds):.0%} to {max(bounds):.0%}; "
        f"{good} of {len(rows)} cells have {LEAST:.0%} of the best.\n\n{_grid(rows)}"
    )


def _grid(rows: list[dict[str, Any]]) -> str:
    sizes = list(dict.fromkeys(row["inputs"] for row in rows))
    cells = {(row["tokens"], row["inputs"]): row for row in rows}
    lines = [[tokens, *(_shown(cells[tokens, size]) for size in sizes)] for tokens in dict.fromkeys(row["tokens"] for row in rows)]
    return markdown_table(["tokens", *(f"{size} inputs" for size in sizes)], lines)


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['gflops']:.0f} ({row['of_bound']:.0%}){'*' if row['kernel'].startswith('dense') else ''}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="for the timing; compiling comes on top")
    return parser


if __name__ == "__main__":
    sys.exit(main())
