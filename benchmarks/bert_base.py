"""BERT-base at 128 tokens: sparsecc at several patterns against onnxruntime, OpenVINO and torch, all in one interleaved run.

    python -m benchmarks.bert_base [--threads 2] [--tokens 128] [--batch 1] [--seconds 120] [--row 4x1:0.7] ...

Writes benchmarks/results/bert_base.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.compile_cost import compile_cost
from benchmarks.export import exported
from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, OpenVino, Torch, Workload
from benchmarks.results import markdown_table, write
from benchmarks.rows import Compiled, agree, cells, compile_row, entry, head
from models import bert_base
from sparsecc.timing import Timing, interleave

PEERS = (OnnxRuntime(), OpenVino(), Torch())
BASELINE = OnnxRuntime().name


@dataclass(frozen=True)
class Row:
    """What sparsecc is asked for. at_least: how many times faster than the baseline it has to be, None where nothing is promised."""

    pattern: str | None  # None: dense
    sparsity: float = 0.0
    at_least: float | None = None

    @property
    def name(self) -> str:
        return f"sparsecc {self.pattern} {self.sparsity:.0%}" if self.pattern else "sparsecc dense"

    @property
    def recipe(self) -> dict[str, Any] | None:
        return bert_base.recipe(self.pattern, self.sparsity) if self.pattern else None


ROWS = (
    Row(None, at_least=1 / 1.5),
    Row("4x1", 0.5),
    Row("4x1", 0.7, at_least=1.7),
    Row("4x1", 0.9),
    Row("unstructured", 0.8),
    Row("unstructured", 0.9, at_least=2.0),
    Row("2:4", 0.5),
)


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    rows = tuple(arguments.row or ROWS)
    work = workload(arguments.batch, arguments.tokens)
    calls = {peer.name: peer.load(work, arguments.threads) for peer in PEERS}
    errors = agree(calls, BASELINE)
    compiled = {}
    for row in rows:
        with console.status(f"compiling {row.name}"):
            compiled[row.name] = compile_row(row, work, arguments.threads)
    calls |= {name: done.call for name, done in compiled.items()}
    with Progress(console=console) as bar:
        task = bar.add_task("timing", total=1.0)
        timings = interleave(calls, seconds=arguments.seconds, progress=lambda share: bar.update(task, completed=share))
    costs = {}
    for row in [r for r in rows if r.at_least] if arguments.compile_cost else []:
        with console.status(f"memory of compiling {row.name}"):
            costs[row.name] = compile_cost("bert_base", row.pattern, row.sparsity, arguments.threads)
    document = {
        "machine": machine(),
        "threads": arguments.threads,
        "batch": arguments.batch,
        "tokens": arguments.tokens,
        "baseline": BASELINE,
        "rows": [_entry(timings[name], timings[BASELINE], rows, compiled, costs, errors) for name in calls],
    }
    table = _markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    suffix = "" if (arguments.batch, arguments.tokens) == (1, 128) else f"-{arguments.batch}x{arguments.tokens}"
    for path in write(f"bert_base{suffix}", document, table) if not arguments.row else []:
        console.print(f"wrote {path}")
    return 0 if all(row["reached"] is not False for row in document["rows"]) else 1


def workload(batch: int, tokens: int) -> Workload:
    module, inputs = bert_base.build(), bert_base.example_inputs(batch, tokens)
    names = ("input_ids", "attention_mask")
    path = exported("bert_base", module, inputs, names)
    arrays, *samples = (
        {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        for tensors in (inputs, *bert_base.calibration(4, tokens, batch))
    )
    return Workload("bert_base", path, arrays, module, samples)


def _entry(
    timing: Timing,
    baseline: Timing,
    rows: tuple[Row, ...],
    compiled: dict[str, Compiled],
    costs: dict[str, dict[str, Any]],
    errors: dict[str, float],
) -> dict[str, Any]:
    found = entry(timing, baseline, rows, compiled, errors)
    return found | {"compile_cost": costs.get(timing.name)} if timing.name in compiled else found


def _markdown(document: dict[str, Any]) -> str:
    title = f"BERT-base, {document['tokens']} tokens, batch {document['batch']}, fp32, {document['threads']} threads"
    return f"{title}\n\n" + markdown_table([*head(BASELINE), "compile peak"], [_cells(found) for found in document["rows"]])


def _cells(found: dict[str, Any]) -> list[str]:
    cost = found.get("compile_cost")
    return [*cells(found), _memory(cost) if cost else ""]


def _memory(cost: dict[str, Any]) -> str:
    """The peak of compile over the model's size: of the whole process, and without its libraries."""
    whole, own = (bytes / cost["model_bytes"] for bytes in (cost["peak_bytes"], cost["peak_bytes"] - cost["libraries_bytes"]))
    return f"{whole:.1f}x model, {own:.1f}x less libraries"


def _row(text: str) -> Row:
    """`dense`, `4x1:0.7`, `2:4:0.5`."""
    if text == "dense":
        return Row(None)
    pattern, _, sparsity = text.rpartition(":")
    return Row(pattern, float(sparsity))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120, help="for the timing; compiling comes on top")
    parser.add_argument("--row", type=_row, action="append", metavar="PATTERN:SPARSITY", help="only this row (nothing is written)")
    parser.add_argument("--no-compile-cost", dest="compile_cost", action="store_false", help="leave out the memory measurement")
    return parser


if __name__ == "__main__":
    sys.exit(main())
