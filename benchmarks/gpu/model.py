"""A whole token of a model in Llama 3 8B's shape, in CUDA graphs: torch.compile of the dense model, and what sparsecc makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.promises import Promise
from models import llama_decode
from sparsecc.codegen.cuda import measure
from sparsecc.timing import Spread

DENSE = "torch.compile, max-autotune"
RECIPES: dict[str, tuple[dict[str, Any], float]] = {
    "2:4": ({"passes": [{"prune": {"pattern": "2:4", "targets": [r"re:blocks\..*"]}}, {"pack": {}}]}, 1.55),
    "int4, groups of 128": (
        {"passes": [{"quantize": {"dtype": "int4", "group": 128, "targets": [r"re:(blocks\..*|head)"]}}]},
        2.3,
    ),
}


def run(shape: str, cache: str | None, names: list[str], show: Callable[[str], None], autotune: bool = True) -> list[dict[str, Any]]:
    """A row for each recipe; the dense model is compiled once, and timed in turns with each."""
    import sparsecc

    inputs = llama_decode.example_inputs("cuda", position=llama_decode.SHAPES[shape].tokens - 1)
    with torch.no_grad():
        dense = llama_decode.build(shape, "cuda")
        theirs = torch.compile(dense, mode="max-autotune-no-cudagraphs" if autotune else None, dynamic=False)
        rows = []
        rival = _captured(theirs, inputs, show, DENSE)
        for name in names:
            recipe, at_least = RECIPES[name]
            program = torch.export.export(dense, inputs)
            compiled: Any = sparsecc.compile(program, inputs, recipe=recipe, target="cuda", cache=cache)
            del program
            show(str(compiled.report)[-3000:])
            ours = torch.compile(compiled, dynamic=False)
            graph = _captured(ours, inputs, show, name)
            mine, other = _in_turns([graph, rival])
            rows.append(
                {
                    "name": f"Llama 3 {shape.upper()} shape, one token, {name}",
                    "ms": mine.to_dict(),
                    "rival_ms": other.to_dict(),
                    "times": other.median / mine.median,
                    "low": other.p10 / mine.p90,
                    "high": other.p90 / mine.p10,
                    "at_least": at_least,
                    "right": compiled.report.check is not None and compiled.report.check.max_rel < 0.05,
                    "check": compiled.report.to_dict()["check"],
                    "launches": sum(1 for node in compiled.program.graph.nodes if "linear_cuda" in str(node.target)),
                }
            )
            show(f"{rows[-1]['name']}: {mine.median:.3f} ms, dense {other.median:.3f} ms, {rows[-1]['times']:.2f}x (wanted {at_least})")
            del compiled, ours, graph
            torch.cuda.empty_cache()
    return rows


def promise(row: dict[str, Any]) -> Promise:
    measured = Spread(row["times"], row["low"], row["high"])
    return Promise("model", row["name"], DENSE, measured, row["at_least"], right=row["right"], ms=row["ms"]["median"])


def _captured(module: Any, inputs: tuple[Any, ...], show: Callable[[str], None], name: str) -> torch.cuda.CUDAGraph:
    import time

    start = time.perf_counter()
    captured, _ = measure.graph([lambda: module(*inputs)], at_least=1)
    show(f"{name}: compiled and captured in {time.perf_counter() - start:.0f} s")
    return captured


def _in_turns(graphs: list[torch.cuda.CUDAGraph], rounds: int = 40) -> list[Spread]:
    """Milliseconds of a replay."""
    taken: list[list[float]] = [[] for _ in graphs]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(rounds + 3):
        for graph, times in zip(graphs, taken, strict=True):
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if number >= 3:
                times.append(start.elapsed_time(end))
    return [Spread.of(times) for times in taken]


def linears(module: nn.Module) -> int:
    """Bytes of all layers' weights: what one token has to read."""
    return sum(layer.weight.nbytes for layer in module.modules() if isinstance(layer, nn.Linear))
