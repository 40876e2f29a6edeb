"""Peak memory of running BERT-base: compiled, as an artifact, against onnxruntime dense in fp32; each in a process of its own.

    python -m benchmarks.run_memory [--threads 2]

The peak counts what is resident from the moment the engine is imported to the end of some runs, less what was resident before.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import process_memory
from benchmarks.bert_base import Row, workload
from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Sparsecc, Workload
from benchmarks.promises import Promise
from benchmarks.results import markdown_table
from sparsecc.timing import Spread

ROWS = (Row(None), *(Row(pattern, sparsity) for pattern in ("4x1", "unstructured") for sparsity in (0.5, 0.8, 0.9)))
BASELINE = OnnxRuntime().name
PART = "peak memory of running BERT-base, 128 tokens, batch 1"
FROM = 0.5  # sparsity from which ours has to be below the baseline


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    document = measured(arguments.threads, console)
    console.print(markdown(document), markup=False, highlight=False, soft_wrap=True)
    return 0 if all(promise.reached for promise in promises(document)) else 1


def measured(threads: int, console: Console, rows: tuple[Row, ...] = ROWS) -> dict[str, Any]:
    work = workload(1, 128)
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **work.inputs)  # type: ignore[arg-type]  # numpy's stubs mistake names for flags
        found = [
            {"name": BASELINE, "sparsity": None, "file_bytes": work.onnx.stat().st_size} | process_memory.peak(work.onnx, inputs, threads)
        ]
        for row in rows:
            with console.status(f"memory of {row.name}"):
                found.append(_compiled(row, work, Path(folder) / "model.sparsecc", inputs, threads))
            gc.collect()
    return {"machine": machine(), "threads": threads, "rows": found}


def _compiled(row: Row, work: Workload, path: Path, inputs: Path, threads: int) -> dict[str, Any]:
    Sparsecc(recipe=row.recipe).compile(work, threads).save(path)
    return {"name": row.name, "sparsity": row.sparsity, "file_bytes": path.stat().st_size} | process_memory.peak(path, inputs, threads)


def promises(document: Mapping[str, Any]) -> list[Promise]:
    """Ratios of bytes. One process each: no spread."""
    baseline = document["rows"][0]["peak_bytes"]
    sparse = [row for row in document["rows"][1:] if row["sparsity"] >= FROM]
    ratios = [(row["name"], row["peak_bytes"] / baseline) for row in sparse]
    return [Promise(PART, name, f"{BASELINE} dense", Spread(ratio, ratio, ratio), 1.0, most=True) for name, ratio in ratios]


def markdown(document: Mapping[str, Any]) -> str:
    baseline = document["rows"][0]["peak_bytes"]
    head = ["engine", "file MB", "idle MB", "peak above idle MB", f"share of {BASELINE}"]
    rows = [_cells(row, baseline) for row in document["rows"]]
    return f"{PART}, loading included, in a fresh process each; idle: with the engine imported\n\n{markdown_table(head, rows)}"


def _cells(row: Mapping[str, Any], baseline: int) -> list[str]:
    sizes = [f"{row[size] / 1e6:.0f}" for size in ("file_bytes", "idle_bytes", "peak_bytes")]
    return [row["name"], *sizes, f"{row['peak_bytes'] / baseline:.2f}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
