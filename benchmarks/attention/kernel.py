"""Block-sparse attention on a GPU against FlexAttention with the same map and cuDNN's dense attention, in turns in one process.

    python -m benchmarks.attention.kernel
    python -m benchmarks.attention.kernel --build --cache DIR      # builds the kernels, without a GPU

Maps are random, blocks of 128, the diagonal always kept. The price of orders is what the same map takes longer where each head has one
of its own, drawn at random: what is read and written for it depends on no order. Writes benchmarks/results/attention-kernel.json and .md.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.promises import HEAD, Promise, cells
from benchmarks.results import markdown_table, write
from sparsecc.attention import export
from sparsecc.attention.base import BlockMap, Grid
from sparsecc.codegen.cuda import blocks, operator
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.target import Target
from sparsecc.timing import Spread

_FLEX, _CUDNN, _WITH_ORDERS = "FlexAttention", "cuDNN dense", "ours with orders"
_WANTED: dict[BlockAttentionSpec, dict[float, dict[str, float]]] = {
    BlockAttentionSpec(1, 48, 48, 17776, 64, 64**-0.5, 128): {
        1.0: {_CUDNN: 0.85},
        0.5: {_FLEX: 1.2, _CUDNN: 1.9},
        0.3: {_FLEX: 1.2, _CUDNN: 3.1},
        0.2: {_FLEX: 1.2, _CUDNN: 4.5},
    },
    BlockAttentionSpec(1, 40, 40, 32768, 128, 128**-0.5, 128): {
        1.0: {_CUDNN: 0.85},
        0.5: {_FLEX: 1.35},
        0.3: {_FLEX: 1.35},
        0.2: {_FLEX: 1.35},
    },
}
_ORDERED = (0.3, 0.5)  # densities at which orders are measured
_MOST_FOR_ORDERS = 0.03  # of the kernel's time without
_WAIT = 1_000_000  # cycles, half a millisecond
_TOLERANCE = 1e-2  # of the largest output of the head that is looked at, in bfloat16


def random_map(spec: BlockAttentionSpec, density: float, device: torch.device) -> BlockMap:
    count = -(-spec.tokens // spec.block)
    generator = torch.Generator(device).manual_seed(0)
    keep = torch.rand(spec.heads, count, count, device=device, generator=generator) < density
    return BlockMap(Grid.line(spec.tokens), spec.block, None, keep | torch.eye(count, device=device, dtype=torch.bool))


def flex(spec: BlockAttentionSpec, block_map: BlockMap, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled, mask = torch.compile(flex_attention, dynamic=False, fullgraph=True), export.block_mask(block_map, q.device)
    return functools.partial(compiled, q, k, v, block_mask=mask, scale=spec.scale)


def cudnn(spec: BlockAttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v, scale=spec.scale)


def in_turns(candidates: dict[str, Callable[[], object]], rounds: int = 9) -> dict[str, Spread]:
    """Milliseconds of a call, which reads more than a cache holds. The GPU waits until all of a round stands in its queue."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(rounds + 2):
        for name, call in candidates.items():
            torch.cuda._sleep(_WAIT)
            start.record()
            call()
            end.record()
            end.synchronize()
            if number >= 2:
                taken[name].append(start.elapsed_time(end))
    return {name: Spread.of(times) for name, times in taken.items()}


def with_orders(spec: BlockAttentionSpec, chooser: Chooser, q: Tensor, k: Tensor, v: Tensor, packed: blocks.Packed) -> Callable[[], Tensor]:
    plan = chooser.alone(replace(spec, ordered=True)).plan
    if plan is None:
        raise RuntimeError(f"no kernel for {spec.name} with orders")
    places = torch.stack([torch.randperm(spec.tokens, device=q.device) for _ in range(spec.heads)]).int()
    return functools.partial(blocks.block_attention_cuda, q, k, v, *packed._replace(places=places), None, operator.register(plan))


def error(spec: BlockAttentionSpec, block_map: BlockMap, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> float:
    """Of the first, a middle and the last block of queries of each head, against float64."""
    worst, last = 0.0, block_map.keep.shape[1] - 1
    for head in range(spec.heads):
        keys, values, queries = (x[0, head].double() for x in (k, v, q))
        for block in (0, last // 2, last):
            rows = slice(block * spec.block, min((block + 1) * spec.block, spec.tokens))
            seen = block_map.keep[head, block].repeat_interleave(spec.block)[: spec.tokens]
            expected = (spec.scale * queries[rows] @ keys[seen].T).softmax(-1) @ values[seen]
            worst = max(worst, float((y[0, head, rows].double() - expected).abs().max() / expected.abs().max()))
    return worst


def run(spec: BlockAttentionSpec, chooser: Chooser, device: torch.device) -> Iterator[dict[str, Any]]:
    plan = chooser.alone(spec).plan
    if plan is None:
        raise RuntimeError(f"no kernel for {spec.name}")
    key, (q, k, v) = operator.register(plan), blocks.example(spec, device)
    for density, wanted in _WANTED[spec].items():
        block_map = random_map(spec, density, device)
        packed = blocks.pack(block_map, spec.batch)
        ours = functools.partial(blocks.block_attention_cuda, q, k, v, *packed, None, key)
        torch.compiler.reset()  # it stops to compile after eight maps
        rival = flex(spec, block_map, q, k, v)
        off = max(error(spec, block_map, q, k, v, y()) for y in (ours, rival))
        candidates = {"ours": ours, _FLEX: rival, _CUDNN: functools.partial(cudnn, spec, q, k, v)}
        if density in _ORDERED:
            candidates[_WITH_ORDERS] = with_orders(spec, chooser, q, k, v, packed)
        times = in_turns(candidates)
        mine = times["ours"]
        flops = 4 * int(block_map.keep.sum()) * spec.block**2 * spec.head_dim
        yield {
            "name": f"{spec.tokens} tokens, {spec.heads} heads of {spec.head_dim}, density {density:g}",
            "ms": mine.to_dict(),
            "tflops": flops / mine.median / 1e9,
            "error": off,
            "ordered_ms": times[_WITH_ORDERS].to_dict() if _WITH_ORDERS in times else None,
            "rivals": {name: {"ms": times[name].to_dict(), "at_least": wanted.get(name)} for name in (_FLEX, _CUDNN)},
        }


def promises(row: dict[str, Any]) -> list[Promise]:
    mine = row["ms"]
    ordered = row["ordered_ms"]
    orders = [] if ordered is None else [_orders(row["name"], mine, ordered)]
    return orders + [
        Promise(
            "attention",
            row["name"],
            rival,
            Spread(found["ms"]["median"] / mine["median"], found["ms"]["p10"] / mine["p90"], found["ms"]["p90"] / mine["p10"]),
            found["at_least"],
            right=row["error"] < _TOLERANCE,
            ms=mine["median"],
        )
        for rival, found in row["rivals"].items()
        if found["at_least"] is not None
    ]


def _orders(name: str, plain: dict[str, float], ordered: dict[str, float]) -> Promise:
    def more(by: str, against: str) -> float:
        return ordered[by] / plain[against] - 1

    share = Spread(more("median", "median"), more("p10", "p90"), more("p90", "p10"))
    return Promise("orders", f"{name}: orders", "the kernel's time", share, _MOST_FOR_ORDERS, most=True, ms=ordered["median"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sparsecc/cuda").expanduser())
    options = parser.parse_args()
    chooser = Chooser(Target(("sm_90a",)), Builder(options.cache), measure=False)
    if options.build:
        for spec in _WANTED:
            chooser.alone(spec)
            chooser.alone(replace(spec, ordered=True))
        return 0
    rows = [row for spec in _WANTED for row in run(spec, chooser, torch.device("cuda", 0))]
    found = [promise for row in rows for promise in promises(row)]
    lines = [[promise.what, *cells(promise), f"{row['tflops']:.0f}", f"{row['error']:.0e}"] for row in rows for promise in promises(row)]
    table = markdown_table(["what", *HEAD, "TFLOP/s", "error"], lines)
    write("attention-kernel", {"device": torch.cuda.get_device_name(), "rows": rows}, f"{table}\n\n{torch.cuda.get_device_name()}.")
    print(table)
    return 0 if all(promise.reached for promise in found) else 1


if __name__ == "__main__":
    sys.exit(main())
