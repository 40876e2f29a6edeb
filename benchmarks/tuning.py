"""What tuning gains: the sparse kernels of BERT-base at 128 tokens, each timed untuned and tuned in turns once the search is over.

    python -m benchmarks.tuning [--threads 2] [--seconds 180] [--records DB]

Writes benchmarks/results/tuning.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.machine import machine
from benchmarks.results import markdown_table, write
from sparsecc.codegen.calls import recorded
from sparsecc.codegen.cpu import threads as pool
from sparsecc.codegen.cpu.backend import BACKEND
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.records import Records, best
from sparsecc.codegen.tuning.tuner import Budget, tune
from sparsecc.codegen.tuning.workload import Workload
from sparsecc.codegen.zeros import ZeroProfile
from sparsecc.timing import Spread, interleave, speedup

TOKENS, TILE = 128, 64
SEED = 0


@dataclass(frozen=True)
class Shape:
    """A kind of layer and how many a model has of it."""

    name: str
    rows: int
    cols: int
    layers: int
    activation: str | None = None


SHAPES = (Shape("query, key, value, output", 768, 768, 48), Shape("up", 3072, 768, 12, "gelu"), Shape("down", 768, 3072, 12))
PATTERNS = (("4x1", 4, 0.5), ("4x1", 4, 0.7), ("4x1", 4, 0.9), ("csr", 1, 0.8), ("csr", 1, 0.9))  # name, rows of a block, sparsity


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    shape: Shape
    pattern: str
    sparsity: float
    task: Task
    weight: Path


def main() -> int:
    arguments = _parser().parse_args()
    console, target = Console(), detect(arguments.threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = list(cases(folder))
        workload = Workload(Counter({(case.task,): case.shape.layers for case in made}), {case.task: case.weight for case in made})
        records = stack.enter_context(Records(arguments.records or folder / "records.db", target, "write"))
        with Progress(console=console) as bar:
            line = bar.add_task("tuning", total=1.0)
            result = tune(
                workload,
                records,
                target,
                Budget(seconds=arguments.seconds),
                seed=SEED,
                progress=lambda now: bar.update(line, completed=now.share, description=f"tuning: {now.trials} trials"),
            )
        with console.status("timing untuned against tuned"):
            rows = [entry(case, records, target) for case in made]
    document = {
        "machine": machine(),
        "threads": arguments.threads,
        "tokens": TOKENS,
        "seconds": arguments.seconds,
        "trials": result.measured,
        "rows": rows,
    }
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write("tuning", document, table):
        console.print(f"wrote {path}")
    return 0


def cases(folder: Path) -> Iterable[Case]:
    """Every shape at every pattern, with random weights in random places; one weight each, stored in `folder`."""
    rng = np.random.default_rng(SEED)
    for shape in SHAPES:
        spec = MatmulSpec.linear(shape.rows, shape.cols, TOKENS // TILE, TILE, Epilogue(shape.activation))
        for pattern, height, sparsity in PATTERNS:
            units = shape.rows // height * shape.cols
            keep = np.zeros(units, bool)
            keep[rng.permutation(units)[: round((1 - sparsity) * units)]] = True
            mask = np.repeat(keep.reshape(-1, shape.cols), height, axis=0)
            matrix = rng.standard_normal(mask.shape, np.float32) * mask
            path = folder / f"{shape.rows}x{shape.cols}-{pattern}-{sparsity}.npy"
            np.save(path, matrix)
            yield Case(shape, pattern, sparsity, Task("row_block_spmm", spec, ZeroProfile.of(matrix)), path)


def entry(case: Case, records: Records, target: Target) -> dict[str, Any]:
    """One row of the document: the first guess and the records' best, timed in turns and afresh."""
    outcomes = records.of(case.task)
    known = best(outcomes)
    first = case.task.space(target)[0]
    tuned = known.knobs if known else first
    matrix = np.load(case.weight)
    calls = {name: _call(case.task, knobs, matrix, target) for name, knobs in (("untuned", first), ("tuned", tuned))}
    timings = pool.run(target.threads, lambda: interleave(calls, seconds=1.0))
    return {
        "layer": case.shape.name,
        "rows": case.shape.rows,
        "cols": case.shape.cols,
        "pattern": case.pattern,
        "sparsity": case.sparsity,
        "us": {name: Spread.of([1e6 * s for s in timing.seconds]).to_dict() for name, timing in timings.items()},
        "speedup": speedup(timings["tuned"], over=timings["untuned"]).to_dict(),
        "knobs": {"untuned": str(first), "tuned": str(tuned)},
        "trials": len(outcomes),
        "failures": sum(outcome.us is None for outcome in outcomes.values()),
    }


def _call(task: Task, knobs: Knobs, matrix: np.ndarray, target: Target) -> Any:
    recorded(tape := Tape(target, {}), BACKEND.plan(task, knobs, Numbers(matrix), None, target), task.spec)
    return tape.run


def markdown(document: dict[str, Any]) -> str:
    head = ["layer", "rows × cols", "pattern", "untuned µs", "tuned µs", "p10-p90", "times as fast", "p10-p90", "trials"]
    title = (
        f"BERT-base's layers at {document['tokens']} tokens, fp32, {document['threads']} threads; {document['trials']} candidates in "
        f"{document['seconds']:.0f} s of tuning, then untuned and tuned timed in turns"
    )
    return f"{title}\n\n" + markdown_table(head, [_cells(row) for row in document["rows"]])


def _cells(row: dict[str, Any]) -> list[Any]:
    untuned, tuned, faster = Spread(**row["us"]["untuned"]), Spread(**row["us"]["tuned"]), Spread(**row["speedup"])
    return [
        row["layer"],
        f"{row['rows']}×{row['cols']}",
        f"{row['pattern']} {row['sparsity']:.0%}",
        f"{untuned.median:.0f}",
        f"{tuned.median:.0f}",
        f"{tuned.p10:.0f}-{tuned.p90:.0f}",
        f"{faster.median:.2f}",
        f"{faster.p10:.2f}-{faster.p90:.2f}",
        row["trials"],
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=180, help="for the search; the timing comes on top")
    parser.add_argument("--records", type=Path, metavar="DB", help="go on in this file; left out: a new one, deleted afterwards")
    return parser


if __name__ == "__main__":
    sys.exit(main())
