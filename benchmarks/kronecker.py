"""Sums of Kronecker products in the generated kernels: a tied factor has to be as fast as its share of the work promises.

    python -m benchmarks.kronecker [--threads 1] [--seconds 20]

One layer in fp32 at a quarter of the dense layer's multiplications, in turns with the dense kernel and with low rank, which has the same
work and no tied factor. Writes benchmarks/results/kronecker.json and .md.
"""

from __future__ import annotations

import argparse
import sys

import torch
from rich.console import Console
from rich.progress import track

from benchmarks import structured_kernels
from benchmarks.machine import machine
from benchmarks.results import write
from benchmarks.structured_kernels import Shape
from sparsecc import structures
from sparsecc.structures.base import Structure

WORK = 0.25
SHAPES = tuple(Shape(rows, cols, 128) for rows, cols in ((3072, 768), (768, 3072), (768, 768)))


def candidates(rows: int, cols: int) -> list[Structure]:
    return [structure for name in ("low_rank", "kronecker") for structure in structures.sized(name, rows, cols, WORK)]


def main() -> int:
    arguments = _parser().parse_args()
    console, rows = Console(), []
    for shape in track(SHAPES, "timing", transient=True):
        found = candidates(shape.rows, shape.cols)
        rows += structured_kernels.measure(shape, found, arguments.threads, arguments.seconds)
    text = structured_kernels.table(rows, arguments.threads)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    for path in write("kronecker", {"machine": machine(), "threads": arguments.threads, "kernels": rows}, text):
        console.print(f"wrote {path}")
    return 0 if structured_kernels.holds(rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kronecker", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="per shape, over all candidates (default 20)")
    return parser


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
