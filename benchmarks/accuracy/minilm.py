"""MiniLM with half of its encoder's weights: how near its sentence vectors stay to the dense model's, one-shot and after recovery.

    python -m benchmarks.accuracy.minilm [--criteria] [--samples 256] [--held-out 256] [--row unstructured,0.5,sparsegpt] ...

Writes benchmarks/results/accuracy-minilm.json and .md, with --criteria accuracy-minilm-criteria. Exits with 1 when a row is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.results import FOLDER, markdown_table, write
from models import minilm
from sparsecc import criteria, registry
from sparsecc.calibration.context import Context
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.passes.base import registered_name
from sparsecc.recipe import Recipe

_RESULTS = "accuracy-minilm"
_CRITERIA = "accuracy-minilm-criteria"
ENCODER = [r"re:encoder\..*"]
STEPS = {"uniform": 1150, "sensitivity": 1100}  # of distillation by allocation, of BATCH sentences each: what fits into ten minutes
BATCH = 32
LEARNING_RATE = 7e-4
VARIATIONS = 19  # a sentence as it is in one of 20 steps
MADE = {"alps": 2}  # sentences by criterion that it is shown beside each one given
PATTERNS = (("unstructured", 0.5), ("2:4", 0.5), ("4x1", 0.5), ("unstructured", 0.7))
ONE_SHOT = {("unstructured", 0.5): 0.93, ("2:4", 0.5): 0.87, ("4x1", 0.5): 0.8, ("unstructured", 0.7): 0.78}
RECOVERED = {("unstructured", 0.5): 0.985, ("2:4", 0.5): 0.975, ("4x1", 0.5): 0.965, ("unstructured", 0.7): 0.95}
SECONDS = {"wanda": 15.0, "sparsegpt": 60.0, "recovery": 600.0}  # allowed, for all passes together


@dataclass(frozen=True)
class Row:
    """at_least: the mean cosine promised, None where nothing is.  method: `reconstruction`, `blocks`, or `recovery`: distillation.
    refinement: of the mask.  rows: how the outputs of a layer are weighed."""

    pattern: str | None
    sparsity: float = 0.5
    criterion: str = "sparsegpt"
    allocation: str = "uniform"
    method: str | None = None
    int8: bool = False
    at_least: float | None = None
    refinement: str | None = None
    rows: str = "equal"

    @property
    def name(self) -> str:
        zeros = "" if self.pattern is None or ":" in self.pattern else f" {self.sparsity:.0%}"
        allocation = "" if self.allocation == "uniform" else f" with {self.allocation}"
        refined = "" if self.refinement is None else f", {self.refinement}"
        weighed = "" if self.rows == "equal" else f", rows by {self.rows}"
        pruned = None if self.pattern is None else f"{self.pattern}{zeros} by {self.criterion}{allocation}{weighed}{refined}"
        return ", ".join(part for part in (pruned, self.method, "int8" if self.int8 else None) if part)

    @property
    def seconds(self) -> float | None:
        """Allowed for all passes together."""
        if self.pattern is None or (self.allocation == "sensitivity" and self.method is None):
            return None
        return SECONDS.get(self.method or self.criterion)

    def passes(self, steps: int | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.pattern is not None:
            share = {} if ":" in self.pattern else {"sparsity": self.sparsity, "allocation": self.allocation}
            if self.pattern.endswith("x1") or ":" in self.pattern:
                found.append({"permute": {"targets": ENCODER, "pattern": self.pattern}})
            refined = {} if self.refinement is None else {"refinement": self.refinement}
            how = {"pattern": self.pattern, "criterion": self.criterion, "rows": self.rows, "variations": MADE.get(self.criterion, 0)}
            found.append({"prune": {"targets": ENCODER, **how, **refined, **share}})
        if self.method in ("reconstruction", "blocks"):
            found.append({"recover": {"targets": ENCODER, "method": self.method}})
        if self.method == "recovery":
            fitting = STEPS.get(self.allocation, STEPS["uniform"]) if steps is None else steps
            learning = {"steps": fitting, "learning_rate": LEARNING_RATE, "variations": VARIATIONS, "dtype": "bfloat16"}
            found.append({"recover": {"targets": ENCODER, "method": "distillation", **learning}})
        return [*found, *([{"quantize": {"targets": ENCODER}}] if self.int8 else [])]


def rows_of(pattern: str, sparsity: float) -> tuple[Row, ...]:
    key = pattern, sparsity
    one_size = ":" in pattern
    erk = () if one_size else (Row(pattern, sparsity, "random", "erk"),)
    one_shot = tuple(Row(pattern, sparsity, criterion) for criterion in ("random", "magnitude", "wanda", "sparsegpt"))
    best = best_of(pattern, sparsity)
    uniform = () if one_size else (Row(pattern, sparsity, best.criterion), replace(best, rows="equal"))
    rebuilt = replace(best, method="reconstruction"), replace(best, method="recovery", at_least=RECOVERED[key])
    return *erk, *one_shot, *uniform, replace(best, at_least=ONE_SHOT[key]), *rebuilt


def best_of(pattern: str, sparsity: float) -> Row:
    """What does best before recovery."""
    return Row(pattern, sparsity, "alps") if ":" in pattern else Row(pattern, sparsity, "alps", "sensitivity", rows="fisher")


ROWS = (
    *(row for key in PATTERNS for row in rows_of(*key)),
    replace(best_of("4x1", 0.5), method="recovery", int8=True, at_least=0.96),
    Row(None, int8=True, at_least=0.995),
)


def criteria_rows() -> list[Row]:
    """Every criterion of the family, with half of the weights, one-shot, and those that leave weights as they are refined."""
    names = registry.members("criteria")
    patterns = [pattern for pattern, sparsity in PATTERNS if sparsity == 0.5]
    plain = [Row(pattern, criterion=name) for pattern in patterns for name in names]
    return [*plain, *(Row("unstructured", criterion=name, refinement="dsnot") for name in names if not criteria.create(name).updates)]


@dataclass(frozen=True)
class Quality:
    """cosine: mean over sentences, of the vector to the dense model's.  spearman: of all similarities between two sentences.
    nearest: the share of sentences whose nearest other sentence is the same."""

    cosine: float
    spearman: float
    nearest: float


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    promised = {row.name: row for row in ROWS}
    name, whole = (_CRITERIA, criteria_rows()) if arguments.criteria else (_RESULTS, ROWS)
    rows = [promised.get(row.name, row) for row in arguments.row or whole]
    document = measured(rows, arguments.samples, arguments.held_out, arguments.steps, console)
    if arguments.again:
        document = renewed(json.loads((FOLDER / f"{name}.json").read_text()), document)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write(name, document, table) if arguments.again or not arguments.row else []:
        console.print(f"wrote {path}")
    return 0 if all(row["reached"] is not False for row in document["rows"]) else 1


def renewed(before: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Results with the rows that were measured again. Raises SystemExit where those are of another kind."""
    settings = {name: document[name] for name in ("machine", "samples", "held_out", "steps", "made")}
    if other := [name for name, value in settings.items() if before.get(name) != value]:
        raise SystemExit(f"--again: the results differ in {', '.join(other)}; measure all rows")
    found = {row["name"]: row for row in document["rows"]}
    if unknown := found.keys() - {row["name"] for row in before["rows"]}:
        raise SystemExit(f"--again: the results have no row {', '.join(sorted(unknown))}")
    return {**before, "rows": [found.get(row["name"], row) for row in before["rows"]]}


def measured(rows: Sequence[Row], samples: int, held_out: int, steps: int | None, console: Console) -> dict[str, Any]:
    """Rows that begin alike share their beginning: a recipe goes on from the graph of the longest one that was run before."""
    calibration = minilm.batches(minilm.calibration_sentences(samples), BATCH)
    texts = minilm.held_out(held_out)
    graph = FxGraph.from_module(minilm.build(), calibration[0], "minilm")
    dense = vectors(graph, texts)
    done: dict[str, tuple[Graph, Graph | None, float]] = {"[]": (graph, graph, 0.0)}
    found = []
    for row in rows:
        passes = row.passes(steps)
        for length in range(1, len(passes) + 1):
            before, key = done[json.dumps(passes[: length - 1])], json.dumps(passes[:length])
            if key not in done:
                [step] = Recipe.load({"passes": [passes[length - 1]]}).passes
                with console.status(f"{row.name}: {registered_name(step)}"):
                    start = time.perf_counter()
                    after = step.apply(before[0], Context(calibration=calibration, original=before[1]))
                    done[key] = after.graph, after.original, before[2] + time.perf_counter() - start
        rewritten, _, seconds = done[json.dumps(passes)]
        quality = compared(vectors(rewritten, texts), dense)
        reached = None if row.at_least is None else quality.cosine >= row.at_least
        limit = row.seconds
        in_time = limit is None or seconds < limit
        found.append(
            {
                "name": row.name,
                **vars(quality),
                "seconds": seconds,
                "in_time": in_time,
                "at_least": row.at_least,
                "reached": reached if reached is None else reached and in_time,
            }
        )
        console.print(f"{row.name}: cosine {quality.cosine:.4f}, {seconds:.0f} s", highlight=False)
    return {"machine": machine(), "samples": samples, "held_out": held_out, "steps": steps, "made": MADE, "rows": found}


def vectors(graph: Graph, texts: Sequence[str]) -> Tensor:
    """float[texts, width], of unit length, in the order of the texts."""
    found = {}
    for ids, mask, places in minilm.placed(texts):
        found |= dict(zip(places, minilm.embed(graph.run((ids, mask)).outputs[0], mask), strict=True))
    return torch.stack([found[i] for i in range(len(texts))])


def compared(vectors: Tensor, dense: Tensor) -> Quality:
    pairs = torch.triu_indices(len(dense), len(dense), 1)
    similar, similar_dense = (x @ x.T for x in (vectors, dense))
    nearest, nearest_dense = ((s - 2 * torch.eye(len(s))).argmax(1) for s in (similar, similar_dense))
    return Quality(
        float((vectors * dense).sum(1).mean()),
        _spearman(similar[pairs[0], pairs[1]], similar_dense[pairs[0], pairs[1]]),
        float((nearest == nearest_dense).float().mean()),
    )


def _spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def markdown(document: dict[str, Any]) -> str:
    title = (
        f"MiniLM, all 36 linear layers of the encoder, calibrated on {document['samples']} sentences, "
        f"compared on {document['held_out']} others. "
        f"alps sees {document['made']['alps']} more made of each."
    )
    cells = [
        [
            row["name"],
            f"{row['cosine']:.3f}",
            f"{row['spearman']:.3f}",
            f"{row['nearest']:.0%}",
            f"{row['seconds']:.0f}",
            _promise(row),
        ]
        for row in document["rows"]
    ]
    return f"{title}\n\n" + markdown_table(
        ["weights", "mean cosine", "Spearman of similarities", "same nearest", "seconds", "cosine at least"], cells
    )


def _promise(row: dict[str, Any]) -> str:
    if row["at_least"] is None:
        return ""
    return f"{row['at_least']:.3f} {'reached' if row['reached'] else 'missed'}{'' if row['in_time'] else ', too slow'}"


def _row(text: str) -> Row:
    """`unstructured,0.5,alps+sensitivity+fisher,recovery,int8`, `unstructured,0.5,wanda+dsnot`, or `int8` alone; fisher: rows by it."""
    if text == "int8":
        return Row(None, int8=True)
    pattern, sparsity, chosen, *rest = text.split(",")
    criterion, *more = chosen.split("+")
    rows = "fisher" if "fisher" in more else "equal"
    refinement = next((name for name in more if name in registry.members("refinements")), None)
    allocation = next((name for name in more if name not in (refinement, rows)), "uniform")
    method = next((part for part in rest if part != "int8"), None)
    return Row(pattern, float(sparsity), criterion, allocation, method, "int8" in rest, refinement=refinement, rows=rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criteria", action="store_true", help="instead: every criterion one-shot, at half of the weights")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--steps", type=int, help="of distillation, for all rows")
    parser.add_argument(
        "--row",
        type=_row,
        action="append",
        metavar="PATTERN,SPARSITY,CRITERION[+ALLOCATION][+REFINEMENT][+fisher][,METHOD][,int8]",
        help="only this row (nothing is written)",
    )
    parser.add_argument("--again", action="store_true", help="with --row: put the rows measured into the results that are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
