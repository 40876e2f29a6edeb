"""A whole token of a model in Llama 3 8B's shape, in CUDA graphs: torch.compile of the dense model, and what sparsecc makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.promises import Promise
from models.decoders import llama as llama_decode
from sparsecc.codegen.cuda import measure
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.kernel import AttentionSpec, LinearSpec, NormSpec, Weights
from sparsecc.codegen.cuda.target import Target
from sparsecc.timing import Spread

Graph = torch.cuda.CUDAGraph
_TOLERANCE = 0.05  # of the largest output, over 32 layers in bfloat16
RIVALS = {"torch.compile": None, "torch.compile max-autotune": "max-autotune-no-cudagraphs"}  # modes; both are captured as ours are
RECIPES: dict[str, tuple[dict[str, Any], float]] = {
    "2:4": ({"passes": [{"prune": {"pattern": "2:4", "targets": [r"re:blocks\..*"]}}, {"pack": {}}]}, 1.55),
    "int4 g128": ({"passes": [{"quantize": {"dtype": "int4", "targets": [r"re:(blocks\..*|head)"]}}]}, 2.3),
}


def run(shape: str, cache: Path | None, show: Callable[[str], None], autotune: bool = True) -> Iterator[dict[str, Any]]:
    """Rows for each rival and recipe, those of the rival that takes longer to compile last. All graphs of a rival's rows in turns."""
    import sparsecc

    inputs = llama_decode.example_inputs("cuda", position=llama_decode.SHAPES[shape].tokens - 1)
    with torch.no_grad():
        dense = llama_decode.build(shape, "cuda")
        program = torch.export.export(dense, inputs)
        ours, compiled = {}, {}
        for name, (recipe, _) in RECIPES.items():
            start = time.perf_counter()
            compiled[name] = sparsecc.compile(program, inputs, recipe=recipe, target="cuda", cache=cache)
            show(f"{name}: sparsecc.compile took {time.perf_counter() - start:.0f} s\n{str(compiled[name].report)[-2500:]}")
            ours[name] = _captured(torch.compile(compiled[name], dynamic=False), inputs, show, name)
        for name, spread in zip(ours, _in_turns(list(ours.values())), strict=True):
            show(f"{name}: {spread.median:.3f} ms")
        for rival, mode in RIVALS.items():
            if mode is None or autotune:
                torch.compiler.reset()
                theirs = _captured(torch.compile(dense, mode=mode, dynamic=False), inputs, show, rival)
                yield from _rows(shape, rival, theirs, ours, compiled, show)


def build(builder: Builder) -> None:
    """The kernels that `run` needs for the whole shape, on a machine without a GPU."""
    shape = llama_decode.SHAPES["8b"]
    together, chooser = shape.width + 2 * shape.kv_heads * shape.head_dim, Chooser(Target(("sm_90a",)), builder, measure=False)
    for form in ("2:4", "int4 g128"):
        specs = [
            LinearSpec(form, 2 * shape.inner, shape.width, 0, activation="silu", gated=True),
            LinearSpec(form, together, shape.width, 0),
            LinearSpec(form, shape.width, shape.width, 0, residual=True),
            LinearSpec(form, shape.width, shape.inner, 0, residual=True),
            *([LinearSpec(form, shape.vocabulary, shape.width, 0)] if form != "2:4" else []),
        ]
        for spec in specs:
            chooser.choose(spec, Weights(torch.empty(0)), 1)
    depth = shape.head_dim
    chooser.alone(AttentionSpec(1, shape.heads, shape.kv_heads, 1, shape.tokens, depth, depth**-0.5, masked=True))
    chooser.alone(NormSpec(1, shape.width, 1e-5))


def _rows(
    shape: str, rival: str, theirs: Graph, ours: Mapping[str, Graph], compiled: Mapping[str, Any], show: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    other, *times = _in_turns([theirs, *ours.values()])
    for name, mine in zip(ours, times, strict=True):
        check = compiled[name].report.check
        row = {
            "name": f"a token of Llama 3 {shape.upper()} with {name}" + ("" if RIVALS[rival] else " beside defaults"),
            "rival": rival,
            "ms": mine.to_dict(),
            "rival_ms": other.to_dict(),
            "times": other.median / mine.median,
            "low": other.p10 / mine.p90,
            "high": other.p90 / mine.p10,
            "at_least": RECIPES[name][1],
            "right": check is not None and check.max_rel < _TOLERANCE,
            "max_rel": None if check is None else check.max_rel,
        }
        show(f"{row['name']}: {mine.median:.3f} ms, {rival} {other.median:.3f} ms, {row['times']:.2f}x (wanted {row['at_least']})")
        yield row


def promise(row: dict[str, Any]) -> Promise:
    measured = Spread(row["times"], row["low"], row["high"])
    return Promise("model", row["name"], row["rival"], measured, row["at_least"], right=row["right"], ms=row["ms"]["median"])


def _captured(module: Any, inputs: tuple[Any, ...], show: Callable[[str], None], name: str) -> Graph:
    start = time.perf_counter()
    captured, _ = measure.graph([lambda: module(*inputs)], at_least=1)
    show(f"{name}: compiled by inductor and captured in {time.perf_counter() - start:.0f} s")
    return captured


def _in_turns(graphs: list[Graph], rounds: int = 40) -> list[Spread]:
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
