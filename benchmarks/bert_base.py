"""BERT-base at 128 tokens: sparsecc at several patterns against onnxruntime, OpenVINO and torch, all in one interleaved run.

    python -m benchmarks.bert_base [--threads 2] [--tokens 128] [--batch 1] [--seconds 120] [--row 4x1:0.7] ...

Writes benchmarks/results/bert_base.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.compile_cost import compile_cost
from benchmarks.export import exported
from benchmarks.machine import machine
from benchmarks.peers import Call, OnnxRuntime, OpenVino, Sparsecc, Torch, Workload, call_of, max_relative_error
from benchmarks.results import markdown_table, write
from models import bert_base
from sparsecc.timing import Spread, Timing, interleave, speedup

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


@dataclass(frozen=True)
class Compiled:
    """One row after compiling: what to call, and what compiling said."""

    call: Call
    seconds: float
    report: dict[str, Any]


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    rows = tuple(arguments.row or ROWS)
    work = workload(arguments.batch, arguments.tokens)
    calls = {peer.name: peer.load(work, arguments.threads) for peer in PEERS}
    errors = _agree(calls)
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
    return 0 if all(entry["reached"] is not False for entry in document["rows"]) else 1


def workload(batch: int, tokens: int) -> Workload:
    module, inputs = bert_base.build(), bert_base.example_inputs(batch, tokens)
    names = ("input_ids", "attention_mask")
    path = exported("bert_base", module, inputs, names)
    arrays, *samples = (
        {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        for tensors in (inputs, *bert_base.calibration(4, tokens, batch))
    )
    return Workload("bert_base", path, arrays, module, samples)


def compile_row(row: Row, work: Workload, threads: int) -> Compiled:
    start = time.perf_counter()
    compiled = Sparsecc(recipe=row.recipe).compile(work, threads)
    return Compiled(call_of(compiled, work), time.perf_counter() - start, compiled.report.to_dict())


def _agree(calls: dict[str, Call]) -> dict[str, float]:
    """Every peer's error against the baseline. Raises RuntimeError when one computes something else: then a time says nothing."""
    reference = calls[BASELINE]()
    errors = {name: max_relative_error(call(), reference) for name, call in calls.items()}
    for name, error in errors.items():
        if not error <= 1e-3:  # NaN too
            raise RuntimeError(f"{name} and {BASELINE} disagree on the dense model: relative error {error:.1e}")
    return errors


def _entry(
    timing: Timing,
    baseline: Timing,
    rows: tuple[Row, ...],
    compiled: dict[str, Compiled],
    costs: dict[str, dict[str, Any]],
    errors: dict[str, float],
) -> dict[str, Any]:
    """One row of the document. check: against the masked model for sparsecc, against the baseline for the peers."""
    name = timing.name
    faster = speedup(timing, over=baseline)
    row = next((r for r in rows if r.name == name), None)
    entry: dict[str, Any] = {**timing.to_dict(), "speedup": faster.to_dict(), "at_least": None, "reached": None}
    if row is None:
        return entry | {"check": {"max_rel": errors[name]}}
    if row.at_least is not None:
        entry |= {"at_least": row.at_least, "reached": faster.median >= row.at_least}
    done = compiled[name]
    return entry | {"check": done.report["check"], "compile_seconds": done.seconds, "compile_cost": costs.get(name)}


def _markdown(document: dict[str, Any]) -> str:
    head = ["engine", "ms", "p10-p90", f"times {BASELINE}", "p10-p90", "at least", "max. relative error", "compile s", "compile peak"]
    title = f"BERT-base, {document['tokens']} tokens, batch {document['batch']}, fp32, {document['threads']} threads"
    return f"{title}\n\n" + markdown_table(head, [_cells(entry) for entry in document["rows"]])


def _cells(entry: dict[str, Any]) -> list[str]:
    ms, faster, cost = Spread(**entry["ms"]), Spread(**entry["speedup"]), entry.get("compile_cost")
    promise = "" if entry["at_least"] is None else f"{entry['at_least']:.2f} {'reached' if entry['reached'] else 'missed'}"
    return [
        entry["name"],
        f"{ms.median:.1f}",
        f"{ms.p10:.1f}-{ms.p90:.1f}",
        f"{faster.median:.2f}",
        f"{faster.p10:.2f}-{faster.p90:.2f}",
        promise,
        f"{entry['check']['max_rel']:.1e}" if entry["check"] else "",
        f"{entry['compile_seconds']:.0f}" if "compile_seconds" in entry else "",
        _memory(cost) if cost else "",
    ]


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
