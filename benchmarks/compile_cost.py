"""Seconds and memory of one sparsecc.compile, in a process that does nothing else. Prints one JSON object.

python -m benchmarks.compile_cost --model bert_base --pattern 4x1 --sparsity 0.7 --threads 2
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.process_memory import in_a_process, memory, reset_peak


def compile_cost(model: str, pattern: str | None, sparsity: float, threads: int) -> dict[str, Any]:
    """What `measure` returns, measured in a fresh process. Raises RuntimeError with its last words when that fails."""
    sparse = ["--pattern", pattern, "--sparsity", str(sparsity)] if pattern else []
    return in_a_process("compile_cost", "--model", model, "--threads", str(threads), *sparse)


def measure(model: str, pattern: str | None, sparsity: float, threads: int) -> dict[str, Any]:
    """seconds: of compile.  model_bytes: of the weights.  libraries_bytes: resident before the model is built, with everything imported
    that compile needs.  peak_bytes: the highest while compiling, libraries and the caller's model included."""
    import models
    import sparsecc

    chosen: Any = models.load(model)
    libraries = _with_libraries()
    built, inputs = chosen.build(), chosen.example_inputs()
    recipe = chosen.recipe(pattern, sparsity) if pattern else None
    shapes = {name: value.shape for name, value in inputs.items()} if isinstance(built, Path) else None
    reset_peak()  # that of building the model is not compile's
    start = time.perf_counter()
    compiled = sparsecc.compile(built, None if shapes else inputs, recipe=recipe, threads=threads, input_shapes=shapes)
    seconds = time.perf_counter() - start
    check = compiled.report.to_dict()["check"]
    return {"seconds": seconds, "model_bytes": _size(built), "libraries_bytes": libraries, "peak_bytes": memory("VmHWM"), "check": check}


def _with_libraries() -> int:
    """Resident bytes once a model of one layer has been compiled, which imports what any model needs."""
    import torch

    import sparsecc

    sparsecc.compile(torch.nn.Linear(16, 16), (torch.zeros(1, 16),))
    return memory("VmRSS")


def _size(built: Any) -> int:
    return built.stat().st_size if isinstance(built, Path) else sum(p.numel() * p.element_size() for p in built.parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pattern", help="unstructured, 4x1, 2:4, ...; left out: dense")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.model, arguments.pattern, arguments.sparsity, arguments.threads)))
