"""MiniLM with half of its encoder's weights: how near its sentence vectors stay to the dense model's, one-shot and after recovery.

    python -m benchmarks.accuracy.minilm [--samples 256] [--held-out 256] [--row unstructured:0.5:sparsegpt] ...

Writes benchmarks/results/accuracy-minilm.json and .md. Exits with 1 when a row is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.results import markdown_table, promise, write
from models import minilm
from sparsecc.api.rewriting import rewrite
from sparsecc.graph.base import Graph
from sparsecc.graph.fx import FxGraph
from sparsecc.recipe import Recipe

ENCODER = [r"re:encoder\..*"]
RECOVER = {"recover": {"targets": ENCODER}}


@dataclass(frozen=True)
class Row:
    """at_least: the mean cosine promised, None where nothing is."""

    pattern: str
    sparsity: float
    criterion: str
    recovered: bool
    at_least: float | None = None

    @property
    def name(self) -> str:
        zeros = "" if ":" in self.pattern else f" {self.sparsity:.0%}"
        return f"{self.pattern}{zeros} by {self.criterion}{', recovered' if self.recovered else ''}"

    @property
    def recipe(self) -> dict[str, Any]:
        share = {} if ":" in self.pattern else {"sparsity": self.sparsity}
        prune = {"prune": {"targets": ENCODER, "pattern": self.pattern, "criterion": self.criterion, **share}}
        return {"passes": [prune, *([RECOVER] if self.recovered else [])]}


PATTERNS = (("unstructured", 0.5, 0.93, 0.985), ("2:4", 0.5, 0.87, 0.975), ("4x1", 0.5, 0.8, 0.965), ("unstructured", 0.7, 0.78, 0.95))
CRITERIA = ("random", "magnitude", "wanda", "sparsegpt")
ROWS = tuple(
    row
    for pattern, sparsity, one_shot, recovered in PATTERNS
    for row in (
        *(Row(pattern, sparsity, criterion, False, one_shot if criterion == "sparsegpt" else None) for criterion in CRITERIA),
        Row(pattern, sparsity, "sparsegpt", True, recovered),
    )
)


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
    document = measured(arguments.row or ROWS, arguments.samples, arguments.held_out, console)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write("accuracy-minilm", document, table) if not arguments.row else []:
        console.print(f"wrote {path}")
    return 0 if all(row["reached"] is not False for row in document["rows"]) else 1


def measured(rows: Sequence[Row], samples: int, held_out: int, console: Console) -> dict[str, Any]:
    calibration = minilm.batches(minilm.calibration_sentences(samples))
    texts = minilm.held_out(held_out)
    graph = FxGraph.from_module(minilm.build(), calibration[0], "minilm")
    dense = vectors(graph, texts)
    found = []
    for row in rows:
        with console.status(row.name):
            start = time.perf_counter()
            result = rewrite(graph, Recipe.load(row.recipe), calibration, None, "minilm")
            seconds = time.perf_counter() - start
            quality = compared(vectors(result.graph, texts), dense)
        reached = None if row.at_least is None else quality.cosine >= row.at_least
        found.append({"name": row.name, **vars(quality), "seconds": seconds, "at_least": row.at_least, "reached": reached})
        console.print(f"{row.name}: cosine {quality.cosine:.3f}, {seconds:.0f} s", highlight=False)
    return {"machine": machine(), "samples": samples, "held_out": held_out, "rows": found}


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
        f"compared on {document['held_out']} others."
    )
    cells = [
        [
            row["name"],
            f"{row['cosine']:.3f}",
            f"{row['spearman']:.3f}",
            f"{row['nearest']:.0%}",
            f"{row['seconds']:.0f}",
            promise(row),
        ]
        for row in document["rows"]
    ]
    return f"{title}\n\n" + markdown_table(
        ["weights", "mean cosine", "Spearman of similarities", "same nearest", "seconds", "cosine at least"], cells
    )


def _row(text: str) -> Row:
    pattern, rest = (text[:3], text[4:]) if text[:1].isdigit() else text.split(":", 1)
    sparsity, criterion, *more = rest.split(":")
    return Row(pattern, float(sparsity), criterion, more == ["recovered"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--row", type=_row, action="append", metavar="PATTERN:SPARSITY:CRITERION[:recovered]", help="only this row")
    return parser


if __name__ == "__main__":
    sys.exit(main())
