"""Memory around a large ONNX model, without libraries: the peak of compile() over the file's size, and what many loads leave.

    python -m benchmarks.onnx_memory [--loads 200]

The model has 18 layers of 2048 × 2048, 302 MB, and is drawn on the spot. Each row is measured in a process of its own. Writes
benchmarks/results/onnx_memory.json and .md; exits with 1 when a row is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.process_memory import in_a_process, memory, reset_peak
from benchmarks.promises import Promise, promise_table
from benchmarks.results import write
from models._recipes import prune_and_pack
from sparsecc.timing import Spread

AT_MOST = 3.5  # times the file's size
_GROWS = 1.01  # from a tenth of the loads to the last
RECIPES = {"as it is": None, "4x1, 50 %": prune_and_pack(["Linear"], "4x1", 0.5)}


def model(width: int = 2048, layers: int = 18) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for k in range(layers):
        weights.append(numpy_helper.from_array((rng.standard_normal((width, width)) / width**0.5).astype(np.float32), f"w{k}"))
        nodes += [helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"]), helper.make_node("Relu", [f"m{k}"], [f"r{k}"])]
        x = f"r{k}"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, width]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "layers", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.here:
        file, what = arguments.here
        print(json.dumps(peak(Path(file), what) if what in RECIPES else held(Path(file), int(what))))
        return 0
    promises = measured(arguments.loads)
    table = promise_table(promises)
    console = Console()
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write("onnx_memory", {"machine": machine(), "promises": [promise.to_dict() for promise in promises]}, table):
        console.print(f"wrote {path}")
    return 0 if all(promise.reached for promise in promises) else 1


def measured(loads: int) -> list[Promise]:
    import sparsecc

    found = []
    with tempfile.TemporaryDirectory() as folder:
        file, artifact = Path(folder, "model.onnx"), Path(folder, "model.sparsecc")
        onnx.save(model(), file)
        for what in RECIPES:
            times = in_a_process("onnx_memory", "--here", str(file), what)["peak"] / file.stat().st_size
            found.append(_promise("peak of compile(), 302 MB of ONNX", what, "the file's size", times, AT_MOST))
        sparsecc.compile(model(256, 2), threads=1).save(artifact)
        bytes_held = in_a_process("onnx_memory", "--here", str(artifact), str(loads))
        times = bytes_held["last"] / bytes_held["first"]
        found.append(_promise("resident, an artifact", f"{loads} loads", f"{loads // 10} loads", times, _GROWS))
    return found


def _promise(part: str, what: str, baseline: str, times: float, most: float) -> Promise:
    """One process each: no spread."""
    return Promise(part, what, baseline, Spread(times, times, times), most, most=True)


def peak(file: Path, what: str) -> dict[str, int]:
    """Bytes above what is resident once a small model was compiled, which imports what any model needs."""
    import sparsecc

    sparsecc.compile(model(64, 1), threads=1)
    libraries = memory("VmRSS")
    reset_peak()
    sparsecc.compile(file, recipe=RECIPES[what], threads=1)
    return {"peak": memory("VmHWM") - libraries}


def held(artifact: Path, loads: int) -> dict[str, int]:
    """Resident bytes after a tenth of the loads and after the last; each model is called once."""
    import sparsecc

    x = np.ones((16, 256), np.float32)
    first = 0
    for count in range(1, loads + 1):
        sparsecc.load(artifact)(x)
        if count == loads // 10:
            first = memory("VmRSS")
    return {"first": first, "last": memory("VmRSS")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=200)
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
