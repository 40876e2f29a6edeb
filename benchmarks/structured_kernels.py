"""How fast the generated kernels of structured layers are: low rank and Monarch at a quarter of the work, in turns with the dense kernel.

Activations lie in tiles of tokens, as between the layers of a compiled model. `benchmarks.structures` prints and writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.results import markdown_table, promise
from sparsecc.codegen.calls import recorded
from sparsecc.codegen.cpu import threads as pool
from sparsecc.codegen.cpu.backend import BACKEND
from sparsecc.codegen.cpu.chain import Chain, chains
from sparsecc.codegen.cpu.layout import layout_of
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.structures.base import Structure
from sparsecc.timing import Spread, Timing, interleave, speedup

AT_LEAST = 2.0  # times the dense kernel, for the fastest member of each structure
DENSE = "dense"


@dataclass(frozen=True)
class Shape:
    rows: int
    cols: int
    tokens: int


def measure(shape: Shape, candidates: Iterable[Structure], threads: int, seconds: float) -> list[dict[str, Any]]:
    """Rows for the dense layer and each structure, which runs on the faster of its chains, as `compile` has it."""
    target = detect(threads)
    layout = layout_of((1, shape.tokens, shape.cols), target.lanes)
    spec = MatmulSpec.linear(shape.rows, shape.cols, layout.tiles, layout.tile)
    weight = torch.randn(shape.rows, shape.cols, generator=torch.Generator().manual_seed(0))
    bias = np.zeros(shape.rows, np.float32)
    calls, ways = {DENSE: _dense(spec, weight.numpy(), bias, target)}, {}
    functions: dict[Any, Any] = {}
    for structure in candidates:
        for way in chains(structure.project(weight), bias, spec, target):
            name = f"{structure.key} {way}"
            recorded(tape := Tape(target, functions), way, spec)
            calls[name], ways[name] = tape.run, (structure, way)
    timings = pool.run(threads, lambda: interleave(calls, seconds=seconds))
    return _promised([_row(shape, timings[name], timings[DENSE], ways.get(name), spec) for name in _faster(timings, ways)])


def _dense(spec: MatmulSpec, matrix: np.ndarray, bias: np.ndarray, target: Target) -> Callable[[], None]:
    task = Task("dense_matmul", spec)
    plan = BACKEND.plan(task, task.space(target)[0], Numbers(matrix), bias, target)
    recorded(tape := Tape(target, {}), plan, spec)
    return tape.run


def _faster(timings: Mapping[str, Timing], ways: Mapping[str, tuple[Structure, Chain]]) -> list[str]:
    """The dense layer, and of each structure the chain that took least."""
    best: dict[str, str] = {}
    for name, (structure, _) in ways.items():
        rival = best.setdefault(structure.key, name)
        if timings[name].spread_ms.median < timings[rival].spread_ms.median:
            best[structure.key] = name
    return [DENSE, *best.values()]


def _row(shape: Shape, timing: Timing, dense: Timing, way: tuple[Structure, Chain] | None, spec: MatmulSpec) -> dict[str, Any]:
    """flops: the share of the dense layer's."""
    size = {"rows": shape.rows, "cols": shape.cols, "tokens": shape.tokens}
    name, kernel, flops = (DENSE, "dense_matmul", 1.0) if way is None else (way[0].key, str(way[1]), way[1].flops / spec.flops)
    faster = speedup(timing, over=dense).to_dict()
    return {
        **size,
        **timing.to_dict(),
        "name": name,
        "kernel": kernel,
        "flops": flops,
        "times_dense": faster,
        "at_least": None,
        "reached": None,
    }


def _promised(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, of which the fastest of each structure says whether it is as fast as it has to be."""
    fastest: dict[str, dict[str, Any]] = {}
    for row in rows[1:]:
        family = row["name"].partition(":")[0]
        if family not in fastest or row["times_dense"]["median"] > fastest[family]["times_dense"]["median"]:
            fastest[family] = row
    for row in fastest.values():
        row |= {"at_least": AT_LEAST, "reached": row["times_dense"]["median"] >= AT_LEAST}
    return list(rows)


def holds(rows: Iterable[Mapping[str, Any]]) -> bool:
    return all(row["reached"] is not False for row in rows)


def table(rows: Iterable[Mapping[str, Any]], threads: int) -> str:
    head = ["layer", "tokens", "structure", "kernel", "FLOPs", "ms", "p10-p90", "times dense", "p10-p90", "at least"]
    return (
        f"One layer in the kernels that sparsecc generates, fp32, {threads} threads, dense and structured in turns, at most a quarter "
        f"of the work; of each structure the fastest member has to reach {AT_LEAST:g} times dense.\n\n"
        f"{markdown_table(head, [_cells(row) for row in rows])}"
    )


def _cells(row: Mapping[str, Any]) -> list[Any]:
    ms, faster = Spread(**row["ms"]), Spread(**row["times_dense"])
    return [
        f"{row['cols']} → {row['rows']}",
        row["tokens"],
        row["name"],
        row["kernel"],
        f"{row['flops']:.3f}",
        f"{ms.median:.2f}",
        f"{ms.p10:.2f}-{ms.p90:.2f}",
        f"{faster.median:.2f}",
        f"{faster.p10:.2f}-{faster.p90:.2f}",
        promise(row),
    ]
