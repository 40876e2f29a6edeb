"""What the evaluations share: rows that are recipes, run one after another on what they have in common, and the table of what came out.

An evaluation is a value, `Evaluation`; a module makes one, and `main` is its command line:

    python -m benchmarks.accuracy.NAME [--quick] [--row TEXT ...]

which writes benchmarks/results/accuracy-NAME.json and .md and exits with 1 when a row that is promised is missed. With --quick (few
inputs, few steps: figures that mean little) or with --row it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.machine import machine
from benchmarks.results import markdown_table, write
from sparsecc.calibration.context import Context
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.base import registered_name
from sparsecc.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """One way to make a model sparse. pattern: None for the dense model.  method: of `recover`, None without.  compare: as in `prune`.
    within: how much worse than the dense model the figure may be, None where nothing is promised."""

    pattern: str | None
    sparsity: float = 0.5
    criterion: str = "sparsegpt"
    allocation: str = "uniform"
    method: str | None = None
    within: float | None = None
    compare: str | None = None

    @property
    def name(self) -> str:
        if self.pattern is None:
            return "dense"
        zeros = "" if ":" in self.pattern else f" {self.sparsity:.0%}"
        allocation = "" if self.allocation == "uniform" else f" with {self.allocation}"
        compared = f" within each {self.compare}" if self.compare else ""
        return f"{self.pattern}{zeros} by {self.criterion}{compared}{allocation}" + (f", {self.method}" if self.method else "")

    def passes(self, steps: int, scope: Mapping[str, Any]) -> list[dict[str, Any]]:
        """scope: `targets` and `ignore`, where not every layer is meant."""
        if self.pattern is None:
            return []
        share = {} if ":" in self.pattern else {"sparsity": self.sparsity, "allocation": self.allocation, "compare": self.compare}
        prune = {"prune": {**scope, "pattern": self.pattern, "criterion": self.criterion, **share}}
        if self.method is None:
            return [prune]
        return [prune, {"recover": {**scope, "method": self.method} | ({"steps": steps} if self.method == "distillation" else {})}]


def one_shot_and_distilled() -> tuple[Row, ...]:
    """The dense model, then criteria under four patterns, most of them as they are and after distillation; `random` with ERK but for
    N:M."""
    found = [Row(None)]
    for pattern, sparsity in (("unstructured", 0.5), ("unstructured", 0.7), ("2:4", 0.5), ("4x1", 0.5)):
        for criterion in ("random", "magnitude", "wanda", "sparsegpt", "alps"):
            allocation = "erk" if criterion == "random" and ":" not in pattern else "uniform"
            found += [Row(pattern, sparsity, criterion, allocation, method) for method in (None, "distillation")]
        found += [Row(pattern, sparsity, criterion) for criterion in ("spectral", "fisher", "obs", "chita")]
    return tuple(found)


@dataclass(frozen=True)
class Sizes:
    """samples: inputs to calibrate on.  held_out: inputs to judge by.  steps: of distillation."""

    samples: int
    held_out: int
    steps: int = 0


@dataclass(frozen=True)
class Subject:
    """A model to be made sparse. figures: how good a graph is on the inputs held out, by the names in `Evaluation.figures`.
    scope: as in `Row.passes`."""

    graph: Graph
    calibration: Sequence[Any]
    figures: Callable[[Graph], dict[str, float]]
    scope: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """about: what the table shows, with places for the fields of Sizes.  load: the model and its inputs.  figures: names and formats, the
    one that is promised first.  lower_is_better: whether that one is an error."""

    name: str
    about: str
    rows: tuple[Row, ...]
    load: Callable[[Sizes], Subject]
    figures: Mapping[str, str]
    lower_is_better: bool
    full: Sizes
    quick: Sizes


def main(evaluation: Evaluation) -> int:
    """The command line; returns the exit code."""
    arguments = _parser(evaluation).parse_args()
    rows = chosen(evaluation.rows, arguments.row)
    if not rows:
        raise SystemExit(
            f"--row: no row's name contains any of {arguments.row}; there are: {'; '.join(row.name for row in evaluation.rows)}"
        )
    console = Console()
    document = measured(evaluation, rows, evaluation.quick if arguments.quick else evaluation.full, console)
    table = markdown(evaluation, document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    if not arguments.quick and not arguments.row:
        for path in write(f"accuracy-{evaluation.name}", document, table):
            console.print(f"wrote {path}")
    return 0 if all(row["reached"] is not False for row in document["rows"]) else 1


def chosen(rows: Sequence[Row], wanted: Sequence[str] | None) -> list[Row]:
    """The dense model and the rows whose names contain one of the texts; every row for no texts; nothing where none fits."""
    if not wanted:
        return list(rows)
    found = [row for row in rows if any(text in row.name for text in wanted)]
    return [*(row for row in rows if row.pattern is None and row not in found), *found] if found else []


def measured(evaluation: Evaluation, rows: Sequence[Row], sizes: Sizes, console: Console) -> dict[str, Any]:
    """The first row is the dense model. Rows that begin alike share their beginning; seconds are those of the whole recipe."""
    subject = evaluation.load(sizes)
    done: dict[str, tuple[Graph, Graph | None, float]] = {"[]": (subject.graph, subject.graph, 0.0)}
    found: list[dict[str, Any]] = []
    for row in rows:
        passes = row.passes(sizes.steps, subject.scope)
        for length in range(1, len(passes) + 1):
            (before, original, seconds), key = done[json.dumps(passes[: length - 1])], json.dumps(passes[:length])
            if key not in done:
                [step] = Recipe.load({"passes": [passes[length - 1]]}).passes
                with console.status(f"{row.name}: {registered_name(step)}"):
                    start = time.perf_counter()
                    after = step.apply(before, Context(calibration=subject.calibration, original=original))
                    done[key] = after.graph, after.original, seconds + time.perf_counter() - start
        graph, _, seconds = done[json.dumps(passes)]
        figures = subject.figures(graph)
        document = {"name": row.name, **figures, "zeros": zeros(graph), "seconds": seconds}
        found.append(document | promised(evaluation, row, figures, found[0] if found else document))
        console.print(f"{row.name}: {_figures(evaluation, document)}, {seconds:.0f} s", highlight=False)
    return {"machine": machine(), **vars(sizes), "rows": found}


def promised(evaluation: Evaluation, row: Row, figures: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, Any]:
    """limit: what the first figure may be at worst, None where nothing is promised.  reached: whether it is better."""
    if row.within is None:
        return {"limit": None, "reached": None}
    figure, sign = next(iter(evaluation.figures)), 1 if evaluation.lower_is_better else -1
    limit = dense[figure] + sign * row.within
    return {"limit": limit, "reached": sign * figures[figure] <= sign * limit}


def zeros(graph: Graph) -> float:
    """The share of zeros among all weights of linear layers and convolutions."""
    weights = [site.weight for site in graph.sites(WeightSite)]
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def markdown(evaluation: Evaluation, document: Mapping[str, Any]) -> str:
    first, promises = next(iter(evaluation.figures)), any(row["limit"] is not None for row in document["rows"])
    cells = [
        [
            row["name"],
            *(format(row[name], style) for name, style in evaluation.figures.items()),
            f"{row['zeros']:.0%}",
            f"{row['seconds']:.0f}",
            *([_promise(row, evaluation.figures[first])] if promises else []),
        ]
        for row in document["rows"]
    ]
    head = ["weights", *evaluation.figures, "zeros", "seconds"]
    if promises:
        head.append(f"{first} at {'most' if evaluation.lower_is_better else 'least'}")
    return f"{evaluation.about.format_map(document)}\n\n" + markdown_table(head, cells)


def _promise(row: Mapping[str, Any], style: str) -> str:
    return "" if row["limit"] is None else f"{format(row['limit'], style)} {'reached' if row['reached'] else 'missed'}"


def _figures(evaluation: Evaluation, row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {format(row[name], style)}" for name, style in evaluation.figures.items())


def _parser(evaluation: Evaluation) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.accuracy.{evaluation.name}", description=evaluation.about.format_map(vars(evaluation.full))
    )
    parser.add_argument("--quick", action="store_true", help="few inputs and steps: whether it runs (nothing is written)")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only the rows whose names contain this (nothing is written)")
    return parser
