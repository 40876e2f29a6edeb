"""Layers whose best mask is known, because it was planted: the share of it that each criterion finds.

    python -m benchmarks.accuracy.planted [--quick] [--row TEXT ...]

After Fischer and Burkholz (Plant 'n' Seek, 2022): a sparse layer W* of the pattern makes outputs Y = X W*ᵀ + noise, and the dense layer
that is pruned is what least squares finds for them, with every weight free. What W has beside W* is then noise of covariance (XᵀX)⁻¹:
large on inputs of little power and on those that others nearly repeat. Every planted weight is missed equally, being 3 to 5 times as
large as that noise at its input. Magnitude is therefore misled by the inputs' power, and magnitude times norm by what they share.

Each criterion of the family is asked, through the pass `prune`. Writes benchmarks/results/accuracy-planted.json and .md. Exits with 1
when a row is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.machine import machine
from benchmarks.results import markdown_table, write
from sparsecc import patterns, registry
from sparsecc.errors import UserError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear
from sparsecc.passes.base import Context
from sparsecc.passes.prune import Prune

PATTERNS = ("unstructured", "4x1", "2:4")
ROWS, COLS, TOKENS = 64, 256, 2048
GROUP = 8  # inputs that share a part of what they carry
LEAST, MOST = 3.0, 5.0  # size of planted weights, by the standard deviation of the noise at their input
SEEDS = 4  # problems of each pattern
AT_LEAST = {"wanda": "magnitude", "sparsegpt": "wanda"}  # finds more than


@dataclass(frozen=True)
class Planted:
    """weight: of the dense layer, float[rows, cols].  planted: the sparse one in it.  inputs: float[tokens, cols]."""

    weight: Tensor
    planted: Tensor
    inputs: Tensor

    def found(self, keep: Tensor) -> float:
        """The share of the planted weights that a mask keeps."""
        return int((keep & (self.planted != 0)).count_nonzero()) / int(self.planted.count_nonzero())

    def error(self, weight: Tensor) -> float:
        """‖X(W − W*)ᵀ‖ / ‖XW*ᵀ‖."""
        return float((self.inputs @ (weight - self.planted).T).norm() / (self.inputs @ self.planted.T).norm())


def plant(pattern: str, seed: int, rows: int = ROWS, cols: int = COLS, tokens: int = TOKENS) -> Planted:
    """A problem with half of its weights planted. The noise of the outputs has a standard deviation of 1."""
    generator = torch.Generator().manual_seed(seed)
    inputs = correlated(tokens, cols, generator)
    keep = patterns.parse(pattern).project(torch.rand(rows, cols, generator=generator), 0.5)
    sizes = LEAST + (MOST - LEAST) * torch.rand(rows, cols, generator=generator)
    signs = 2 * torch.randint(2, (rows, cols), generator=generator) - 1
    inverse = torch.linalg.inv(inputs.double().T @ inputs.double())
    planted = torch.where(keep, sizes * signs * inverse.diagonal().sqrt().float(), 0.0)
    outputs = inputs @ planted.T + torch.randn(tokens, rows, generator=generator)
    weight = (outputs.double().T @ inputs.double() @ inverse).float()
    return Planted(weight.contiguous(), planted, inputs)


def correlated(tokens: int, cols: int, generator: torch.Generator) -> Tensor:
    """float[tokens, cols]: groups of inputs that share 0 to 98 % of their variance, the group drawn; powers log-normal over two decades."""
    groups = -(-cols // GROUP)
    shared = (0.98 * torch.rand(groups, generator=generator)).repeat_interleave(GROUP)[:cols]
    common = torch.randn(tokens, groups, generator=generator).repeat_interleave(GROUP, 1)[:, :cols]
    own = torch.randn(tokens, cols, generator=generator)
    mixed = (shared.sqrt() * common + (1 - shared).sqrt() * own)[:, torch.randperm(cols, generator=generator)]
    return mixed * torch.randn(cols, generator=generator).mul(0.7).exp()


def pruned(problem: Planted, pattern: str, criterion: str) -> Tensor:
    """The weight after `prune` with half of it zero. Raises UserError where a criterion cannot work on this layer."""
    layer = nn.Linear(problem.weight.shape[1], len(problem.weight), bias=False)
    layer.weight = nn.Parameter(problem.weight.clone(), requires_grad=False)
    graph = FxGraph.from_module(layer.eval(), (problem.inputs,), "planted")
    step = Prune(criterion=criterion, pattern=pattern, min_weights=0)
    result = step.apply(graph, Context(calibration=[(problem.inputs,)], original=graph))
    if result.matches[0].refused is not None:
        raise UserError(result.matches[0].refused.reason)
    return result.graph.sites(Linear)[0].weight


def measured(criteria: Sequence[str], patterns: Sequence[str], seeds: int, console: Console) -> dict[str, Any]:
    """A row for each criterion and pattern: means over the problems, or the reason why it cannot be asked."""
    rows: list[dict[str, Any]] = []
    for pattern in patterns:
        problems = [plant(pattern, seed) for seed in range(seeds)]
        for criterion in criteria:
            row: dict[str, Any] = {"pattern": pattern, "criterion": criterion, "found": None, "error": None, "refused": None}
            try:
                weights = [pruned(problem, pattern, criterion) for problem in problems]
            except UserError as error:
                row["refused"] = str(error)
            else:
                row["found"] = sum(p.found(w != 0) for p, w in zip(problems, weights, strict=True)) / seeds
                row["error"] = sum(p.error(w) for p, w in zip(problems, weights, strict=True)) / seeds
            rows.append(row)
            console.print(f"{pattern} by {criterion}: {row['refused'] or format(row['found'], '.1%')}", highlight=False)
    _promise(rows)
    return {"machine": machine(), "rows_of_layer": ROWS, "inputs_of_layer": COLS, "tokens": TOKENS, "seeds": seeds, "rows": rows}


def _promise(rows: Sequence[dict[str, Any]]) -> None:
    """What the problem implies: who knows the inputs' power finds more than who does not, who knows their correlation more than that."""
    found = {(row["pattern"], row["criterion"]): row["found"] for row in rows}
    for row in rows:
        other = AT_LEAST.get(row["criterion"])
        limit = found.get((row["pattern"], other)) if other else None
        row["more_than"] = other if limit is not None else None
        row["reached"] = None if limit is None or row["found"] is None else row["found"] > limit


def markdown(document: dict[str, Any]) -> str:
    about = (
        f"Layers of {document['rows_of_layer']} outputs and {document['inputs_of_layer']} inputs, {document['tokens']} samples, "
        f"half of the weights planted; means over {document['seeds']} problems. A random half has 50 % of them."
    )
    cells = [
        [row["pattern"], row["criterion"], row["refused"] or f"{row['found']:.1%}", _error(row), _more(row)] for row in document["rows"]
    ]
    head = ["pattern", "criterion", "planted weights found", "output error", "more than"]
    return f"{about}\n\n" + markdown_table(head, cells)


def _error(row: dict[str, Any]) -> str:
    return "" if row["error"] is None else f"{row['error']:.3f}"


def _more(row: dict[str, Any]) -> str:
    return "" if row["reached"] is None else f"{row['more_than']} {'reached' if row['reached'] else 'missed'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one problem of each pattern (nothing is written)")
    parser.add_argument(
        "--row", action="append", metavar="CRITERION", choices=registry.members("criteria"), help="only this criterion (nothing is written)"
    )
    arguments = parser.parse_args()
    console = Console()
    document = measured(arguments.row or registry.members("criteria"), PATTERNS, 1 if arguments.quick else SEEDS, console)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    if not arguments.quick and not arguments.row:
        for path in write("accuracy-planted", document, table):
            console.print(f"wrote {path}")
    return 0 if all(row["reached"] is not False for row in document["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
