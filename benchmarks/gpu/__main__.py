"""Kernels for GPUs against cuBLAS, and a model in Llama 3 8B's shape against torch.compile.

    python -m benchmarks.gpu [--only 2:4] [--no-model] [--cache DIR]
    python -m benchmarks.gpu --build --cache DIR      # builds the kernels, without a GPU; then carry DIR to a machine with one

Times are of CUDA graphs over rotated weights, all candidates in turns in one process; floors are bytes over what a read of 2 GB reaches.
Writes benchmarks/results/gpu.json and .md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import layers, model, yardsticks
from benchmarks.promises import HEAD, Promise, cells
from benchmarks.results import markdown_table, write
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.target import Target
from sparsecc.timing import Spread

_HOST = layers.Case("host time", "2:4", 1024, 1024, {1: 1.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--no-layers", action="store_true")
    parser.add_argument("--model", default="8b", choices=list(model.llama_decode.SHAPES))
    parser.add_argument("--no-autotune", action="store_true", help="torch.compile by its defaults: a minute instead of several")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sparsecc/cuda").expanduser())
    parser.add_argument("--name", default="gpu")
    options = parser.parse_args()
    cases = [case for case in layers.CASES if options.only in case.name]
    builder = Builder(options.cache)
    if options.build:
        yardsticks.build(arch("sm_90a"), builder)
        layers.build([*cases, _HOST], [arch("sm_90a")], builder)
        model.build(builder)
        return
    measure(options, cases, builder)


def measure(options: Any, cases: list[layers.Case], builder: Builder) -> None:
    from sparsecc.codegen.cuda.target import parse

    target = parse("cuda", 1)
    torch.zeros(1, device="cuda")  # makes the context that code is loaded into
    found: dict[str, Any] = {"device": target.device, "reads": [], "dense": [], "layers": [], "host": [], "models": []}
    if not options.no_layers:
        _measure_layers(found, cases, target, builder)
        _write(options.name, found)  # a model takes minutes, and may not fit
    for row in model.run(options.model, options.cache, _show, not options.no_autotune) if not options.no_model else ():
        found["models"].append(row)
        _write(options.name, found)


def _measure_layers(found: dict[str, Any], cases: list[layers.Case], target: Target, builder: Builder) -> None:
    here = arch(target.arches[0])
    found["reads"] += yardsticks.reads(here, builder, _show)
    found["dense"].append(yardsticks.matmul(here, builder, _show))
    bandwidth = 1e12 * max(row["tb_per_s"] for row in found["reads"])
    found["layers"] += layers.run(cases, target, builder, bandwidth, _show)
    for name, call in layers.HOST.items():
        host = layers.host_us(call, layers.plan_of(_HOST, target, builder), _HOST)
        _show(f"{name}: {host.median:.1f} µs of the host")
        found["host"].append({"name": f"{name} in µs of the host", "us": host.to_dict(), "at_most": 10.0})


def _write(name: str, found: dict[str, Any]) -> None:
    promises = _promises(found)
    document = {**found, "promises": [promise.to_dict() for promise in promises]}
    read = ", ".join(f"{row['name']} {row['us']['median']:.1f} µs ({row['tb_per_s']:.2f} TB/s)" for row in found["reads"])
    write(name, document, f"{_table(found, promises)}\n\nReading alone: {read}. {found['device']}, torch {torch.__version__}.")


def _promises(found: dict[str, Any]) -> list[Promise]:
    return [
        *map(yardsticks.promise, found["dense"]),
        *map(layers.promise, found["layers"]),
        *(Promise("host", row["name"], "", Spread(**row["us"]), row["at_most"], most=True) for row in found["host"]),
        *map(model.promise, found["models"]),
    ]


def _table(found: dict[str, Any], promises: list[Promise]) -> str:
    rows = {row["name"]: row for part in ("dense", "layers") for row in found[part]}
    return markdown_table(["what", *HEAD, "of floor", "error"], [_cells(promise, rows.get(promise.what, {})) for promise in promises])


def _cells(promise: Promise, row: dict[str, Any]) -> list[str]:
    floor = f"{row['of_floor']:.0%}" if "of_floor" in row else ""
    return [promise.what, *cells(promise), floor, f"{row['error']:.0e}" if "error" in row else ""]


def _show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
