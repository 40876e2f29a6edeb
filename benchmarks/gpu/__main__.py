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

from benchmarks.gpu import layers, model
from benchmarks.promises import Promise, promise_table
from benchmarks.results import markdown_table, write
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.built import Builder

_HOST = layers.Case("host time", "2:4", 1024, 1024, {1: 1.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--model", default="8b", choices=list(model.llama_decode.SHAPES))
    parser.add_argument("--recipes", nargs="*", default=list(model.RECIPES))
    parser.add_argument("--no-autotune", action="store_true", help="torch.compile by its defaults: a minute instead of several")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sparsecc/cuda").expanduser())
    parser.add_argument("--name", default="gpu")
    options = parser.parse_args()
    cases = [case for case in layers.CASES if options.only in case.name]
    builder = Builder(options.cache)
    if options.build:
        layers.build([*cases, _HOST], [arch("sm_90a")], builder)
        return
    measure(options, cases, builder)


def measure(options: Any, cases: list[layers.Case], builder: Builder) -> None:
    from sparsecc.codegen.cuda.target import parse

    target = parse("cuda", 1)
    rows = list(layers.run(cases, target, builder, _show))
    host = layers.host_us(layers.plan_of(_HOST, target, builder), _HOST)
    _show(f"one call of the operator: {host.median:.1f} µs of the host")
    models = [] if options.no_model else model.run(options.model, str(options.cache), options.recipes, _show, not options.no_autotune)
    promises = [*map(layers.promise, rows), *map(model.promise, models)]
    promises.append(Promise("host", "one call of the operator, µs", "", host, 10.0, most=True))
    document = {
        "device": target.device,
        "bandwidth": layers.bandwidth(),
        "layers": rows,
        "host_us": host.to_dict(),
        "models": models,
        "promises": [promise.to_dict() for promise in promises],
    }
    write(options.name, document, f"{_layers(rows)}\n\n{promise_table(promises)}\n\n{target.device}, {layers.bandwidth() / 1e12:.2f} TB/s")


def _layers(rows: list[dict[str, Any]]) -> str:
    head = ["layer", "kernel", "µs", "cuBLAS µs", "times cuBLAS", "wanted", "of floor", "error"]
    cells = [
        [
            row["name"],
            row["kernel"],
            f"{row['us']['median']:.1f}",
            f"{row['cublas_us']['median']:.1f}",
            f"{row['times']:.2f}",
            f"{row['at_least']:.2f}",
            f"{row['of_floor']:.0%}",
            f"{row['error']:.1e}",
        ]
        for row in rows
    ]
    return markdown_table(head, cells)


def _show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
