"""Pruning by onnxsim beside ours: the same ONNX model, calibration, criterion, pattern and share of zeros.

    python -m benchmarks.accuracy.peers [--model minilm] [--quick] [--row TEXT ...]

onnxsim 0.8.1 has `magnitude`, `wanda` and `sparsegpt`, unstructured and N:M, and one threshold over all layers for the first two; no
blocks, no other allocation, no refinement. It prunes every layer that it knows, so that the layers which ours leaves dense get their
dense weights back. Inputs held out are compared one by one: ours is worse where the mean difference is beyond three standard errors of it.
Writes benchmarks/results/accuracy-peers.json and .md. Exits with 1 when ours is worse in a row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.accuracy import minilm, ocr
from benchmarks.accuracy.common import Sizes, zeros
from benchmarks.export import exported
from benchmarks.machine import machine
from benchmarks.results import markdown_table, write
from models import minilm as model
from sparsecc.calibration.context import Context
from sparsecc.graph.base import Graph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune

Prunes = Callable[["Case"], Graph]
_SAME_ZEROS = 0.005
_ERRORS = 3.0  # standard errors of a mean difference, beyond which it is one: with 28 rows two would find one by chance


@dataclass(frozen=True)
class Case:
    """figures: how good a graph is on each of the inputs held out, float[inputs]."""

    graph: Graph
    calibration: Sequence[Any]
    figures: Callable[[Graph], np.ndarray]


@dataclass(frozen=True)
class Row:
    """What both are asked for."""

    criterion: str
    pattern: str
    sparsity: float = 0.5
    allocation: str = "uniform"
    compare: str | None = None

    @property
    def name(self) -> str:
        share = "" if ":" in self.pattern else f" {self.sparsity:.0%}"
        more = f" with {self.allocation}" if self.allocation != "uniform" else ""
        return f"{self.pattern}{share} by {self.criterion}{more}" + (f", compared within each {self.compare}" if self.compare else "")

    @property
    def step(self) -> Prune:
        sparsity = None if ":" in self.pattern else self.sparsity
        options = {"pattern": self.pattern, "sparsity": sparsity, "allocation": self.allocation, "compare": self.compare}
        return Prune(criterion=self.criterion, **options)

    def ours(self, case: Case) -> Graph:
        return self.step.apply(case.graph, Context(calibration=case.calibration)).graph

    def theirs(self, case: Case) -> Graph:
        import onnxsim

        graph = case.graph
        assert isinstance(graph, OnnxGraph)
        options: dict[str, Any] = {"sparsity": self.sparsity}
        if ":" in self.pattern:
            options = dict(zip(("n", "m"), map(int, self.pattern.split(":")), strict=True))
        if self.allocation == "global":
            options["global_sparsity"] = True
        if self.criterion != "magnitude":
            options["calibration_data"] = [{name: np.asarray(x) for name, x in sample.items()} for sample in case.calibration]
        pruned = getattr(onnxsim, f"apply_{self.criterion}_pruning")(graph.proto(), **options)
        return restored(OnnxGraph.from_proto(pruned), graph, self.step)


def rows() -> tuple[Row, ...]:
    shares = [(pattern, 0.5) for pattern in ("unstructured", "2:4", "4:8")] + [("unstructured", 0.7)]
    criteria = [(share, criterion) for share in shares for criterion in ("magnitude", "wanda", "sparsegpt")]
    uniform = [Row(criterion, *share, compare=_compared(criterion, share[0])) for share, criterion in criteria]
    return *uniform, *(Row(criterion, "unstructured", 0.5, "global") for criterion in ("magnitude", "wanda"))


def _compared(criterion: str, pattern: str) -> str | None:
    """As onnxsim does it, where ours has another way unless told."""
    return "output" if criterion == "magnitude" and ":" not in pattern else None


def restored(pruned: Graph, dense: Graph, step: Prune) -> Graph:
    """`pruned`, changed: dense weights in the layers that `step` leaves alone. By order, since onnxsim drops the names of layers."""
    for site, original in zip(pruned.sites(WeightSite), dense.sites(WeightSite), strict=True):
        if step.pruning.refuse(original, step.targets) and not torch.equal(site.weight, original.weight):
            pruned.set_weight(site, original.weight)
    return pruned


@dataclass(frozen=True)
class Model:
    """about: with places for the fields of Sizes.  style: of the mean of its figures.  useless: what is no better than that is of no use,
    and differences mean nothing."""

    about: str
    load: Callable[[Sizes], Case]
    style: str
    lower_is_better: bool
    useless: float
    full: Sizes
    quick: Sizes

    def compared(self, ours: Pruned, theirs: Pruned) -> dict[str, Any]:
        """loss: how much worse ours is in the mean.  error: the standard error of that.  verdict: "worse", "" or why there is none."""
        sign = 1 if self.lower_is_better else -1
        apart = sign * (ours.figures - theirs.figures)
        loss, error = float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)
        if abs(ours.zeros - theirs.zeros) > _SAME_ZEROS:  # one threshold over all layers counts those that get their weights back
            verdict = "not the same zeros"
        elif all(sign * pruned.figures.mean() >= sign * self.useless for pruned in (ours, theirs)):
            verdict = "both useless"
        else:
            verdict = "worse" if loss > _ERRORS * error else ""
        return {"loss": loss, "error": error, "verdict": verdict}


@dataclass(frozen=True)
class Pruned:
    """figures: float[inputs held out].  zeros: the share of all weights.  seconds: to prune."""

    figures: np.ndarray
    zeros: float
    seconds: float

    def document(self) -> dict[str, float]:
        return {"seconds": self.seconds, "figure": float(self.figures.mean()), "zeros": self.zeros}


def load_minilm(sizes: Sizes) -> Case:
    samples = model.batches(model.calibration_sentences(sizes.samples), minilm.BATCH)
    texts = model.held_out(sizes.held_out)
    names = ("input_ids", "attention_mask")
    graph = OnnxGraph.from_file(exported("minilm", model.build(), samples[0], names, free=((0, 1), (0, 1))))
    dense = minilm.vectors(graph, texts)
    calibration = [dict(zip(names, sample, strict=True)) for sample in samples]
    return Case(graph, calibration, lambda other: (minilm.vectors(other, texts) * dense).sum(1).double().numpy())


def load_ocr(sizes: Sizes) -> Case:
    dense, calibration, others = ocr.given(sizes)
    length = sum(len(line.text) for line in others) / len(others)

    def edits(graph: Graph) -> np.ndarray:
        """Of each line, over the mean number of characters in one."""
        return np.array(ocr.edited(others, ocr.read(graph, others))) / length

    return Case(dense, calibration, edits)


MODELS: Mapping[str, Model] = {
    "minilm": Model(
        about="MiniLM, all 36 linear layers of the encoder, calibrated on {samples} sentences, mean cosine of {held_out} others.",
        load=load_minilm,
        style=".4f",
        lower_is_better=False,
        useless=0.3,  # about what random masks have
        full=Sizes(samples=128, held_out=256),
        quick=Sizes(samples=16, held_out=16),
    ),
    "ocr": Model(
        about="PP-OCRv4's recognizer, calibrated on {samples} lines of text, wrong characters in {held_out} others.",
        load=load_ocr,
        style=".2%",
        lower_is_better=True,
        useless=0.9,
        full=Sizes(samples=32, held_out=192),
        quick=Sizes(samples=4, held_out=8),
    ),
}


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    wanted = [row for row in rows() if not arguments.row or any(text in row.name for text in arguments.row)]
    parts = [measured(name, wanted, arguments.quick, console) for name in arguments.model or MODELS]
    document = {"machine": machine(), "models": parts}
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    if not arguments.quick and not arguments.row and not arguments.model:
        for path in write("accuracy-peers", document, table):
            console.print(f"wrote {path}")
    return 0 if not any(row["verdict"] == "worse" for part in parts for row in part["rows"]) else 1


def measured(name: str, rows: Sequence[Row], quick: bool, console: Console) -> dict[str, Any]:
    about = MODELS[name]
    sizes = about.quick if quick else about.full
    case = about.load(sizes)
    found = []
    for row in rows:
        console.print(f"{name}: {row.name}", highlight=False)
        ours, theirs = (_pruned(prune, case) for prune in (row.ours, row.theirs))
        found.append({"name": row.name, "ours": ours.document(), "theirs": theirs.document(), **about.compared(ours, theirs)})
    return {"model": name, **vars(sizes), "rows": found}


def _pruned(prune: Prunes, case: Case) -> Pruned:
    start = time.perf_counter()
    graph = prune(case)
    seconds = time.perf_counter() - start
    return Pruned(case.figures(graph), zeros(graph), seconds)


def markdown(document: Mapping[str, Any]) -> str:
    parts = []
    for part in document["models"]:
        about = MODELS[part["model"]]
        cells = [[row["name"], *_cells(row, about.style), row["verdict"]] for row in part["rows"]]
        head = ["weights", "sparsecc", "onnxsim", "ours is worse by", "zeros", "onnxsim's", "seconds", "onnxsim's", ""]
        parts.append(f"{about.about.format_map(part)}\n\n{markdown_table(head, cells)}")
    return "\n\n".join([f"onnxsim {document['machine']['versions']['onnxsim']} beside sparsecc, one-shot.", *parts])


def _cells(row: Mapping[str, Any], style: str) -> list[str]:
    both = row["ours"], row["theirs"]
    figures, zeros_, seconds = (
        [format(x[key], how) for x in both] for key, how in (("figure", style), ("zeros", ".1%"), ("seconds", ".0f"))
    )
    return [*figures, f"{format(row['loss'], style)} ± {format(_ERRORS * row['error'], style)}", *zeros_, *seconds]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="only this one (nothing is written)")
    parser.add_argument("--quick", action="store_true", help="few inputs: whether it runs (nothing is written)")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only the rows whose names contain this (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
