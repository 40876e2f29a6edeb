"""Peak memory of running BERT-base: compiled, as an artifact, against onnxruntime dense in fp32; each in a process of its own.

    python -m benchmarks.run_memory [--threads 2]
    python -m benchmarks.run_memory --file FILE        (in such a process: .onnx or .sparsecc, prints one JSON object)

The peak counts what is resident from the moment the engine is imported to the end of some runs, less what was resident before.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.bert_base import Row, workload
from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Sparsecc, Workload
from benchmarks.process_memory import memory, reset_peak
from benchmarks.promises import Promise
from benchmarks.results import markdown_table
from sparsecc.timing import Spread

ROWS = (Row(None), *(Row(pattern, sparsity) for pattern in ("4x1", "unstructured") for sparsity in (0.5, 0.8, 0.9)))
BASELINE = OnnxRuntime().name
PART = "peak memory of running BERT-base, 128 tokens, batch 1"
FROM = 0.5  # sparsity from which ours has to be below the baseline
_RUNS = 3


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.file:
        print(json.dumps(peak_here(arguments.file, np.load(arguments.inputs), arguments.threads)))
        return 0
    console = Console()
    document = measured(arguments.threads, console)
    console.print(markdown(document), markup=False, highlight=False, soft_wrap=True)
    return 0 if all(promise.reached for promise in promises(document)) else 1


def measured(threads: int, console: Console, rows: tuple[Row, ...] = ROWS) -> dict[str, Any]:
    work = workload(1, 128)
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **work.inputs)  # type: ignore[arg-type]  # numpy's stubs mistake names for flags
        found = [{"name": BASELINE, "sparsity": None, "file_bytes": work.onnx.stat().st_size} | _peak(work.onnx, inputs, threads)]
        for row in rows:
            with console.status(f"memory of {row.name}"):
                found.append(_compiled(row, work, Path(folder) / "model.sparsecc", inputs, threads))
            gc.collect()
    return {"machine": machine(), "threads": threads, "rows": found}


def _compiled(row: Row, work: Workload, path: Path, inputs: Path, threads: int) -> dict[str, Any]:
    Sparsecc(recipe=row.recipe).compile(work, threads).save(path)
    return {"name": row.name, "sparsity": row.sparsity, "file_bytes": path.stat().st_size} | _peak(path, inputs, threads)


def _peak(file: Path, inputs: Path, threads: int) -> dict[str, int]:
    """`peak_here`, in a fresh process. Raises RuntimeError with its last words when that fails."""
    command = [sys.executable, "-m", "benchmarks.run_memory", "--file", file, "--inputs", inputs, "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if result.returncode:
        raise RuntimeError(f"memory of {file.name}: {(result.stderr.strip().splitlines() or ['died'])[-1]}")
    return json.loads(result.stdout.splitlines()[-1])


def peak_here(file: Path, inputs: Mapping[str, np.ndarray], threads: int) -> dict[str, int]:
    """idle_bytes: resident with the engine imported.  peak_bytes: the highest after that, less the idle."""
    values = dict(inputs)
    idle = _engine_imported(file.suffix)
    reset_peak()
    call = _loaded(file, values, threads)
    for _ in range(_RUNS):
        call()
    return {"idle_bytes": idle, "peak_bytes": memory("VmHWM") - idle}


def _engine_imported(suffix: str) -> int:
    if suffix == ".onnx":
        import onnxruntime  # noqa: F401
    else:
        from sparsecc.codegen import tvm_api
        from sparsecc.runtime import artifact  # noqa: F401

        _ = tvm_api.VirtualMachine
    return memory("VmRSS")


def _loaded(file: Path, values: dict[str, np.ndarray], threads: int) -> Any:
    if file.suffix == ".onnx":
        return OnnxRuntime().load(Workload(file.stem, file, values), threads)
    import sparsecc

    compiled = sparsecc.load(file, threads)
    return lambda: compiled(*values.values())


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
    parser.add_argument("--file", type=Path, help="measure this one here")
    parser.add_argument("--inputs", type=Path, help=".npz for --file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
