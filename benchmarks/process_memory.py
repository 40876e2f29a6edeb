"""What a process holds, read from the system; and the peak of running a model, in a process that does nothing else.

python -m benchmarks.process_memory --file FILE --inputs FILE.npz --threads 2        (.onnx or .sparsecc, prints one JSON object)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import OnnxRuntime, Workload

_RUNS = 3


def memory(field: str) -> int:
    """VmRSS or VmHWM in bytes; without /proc, the process's peak for both."""
    path = Path("/proc/self/status")
    if not path.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in path.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Let the kernel forget the peak so far. Linux only; elsewhere it is counted in."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def in_a_process(module: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that `python -m benchmarks.MODULE` prints last. Raises RuntimeError with its last words when that fails."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["died"])[-1]
        raise RuntimeError(f"{' '.join([module, *arguments])}: {last}")
    return json.loads(result.stdout.splitlines()[-1])


def peak(file: Path, inputs: Path, threads: int) -> dict[str, int]:
    """`peak_here`, in a fresh process. Raises RuntimeError with its last words when that fails."""
    return in_a_process("process_memory", "--file", str(file), "--inputs", str(inputs), "--threads", str(threads))


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
        from sparsecc.runtime import compiled  # noqa: F401

        _ = tvm_api.VirtualMachine
    return memory("VmRSS")


def _loaded(file: Path, values: dict[str, np.ndarray], threads: int) -> Any:
    if file.suffix == ".onnx":
        return OnnxRuntime().load(Workload(file.stem, file, values), threads)
    import sparsecc

    compiled = sparsecc.load(file, threads)
    return lambda: compiled(*values.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(peak_here(arguments.file, np.load(arguments.inputs), arguments.threads)))
