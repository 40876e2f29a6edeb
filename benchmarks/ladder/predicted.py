"""Predicted against measured time of whole models, for random mixtures of rungs over their layers.

    python -m benchmarks.ladder.predicted [--model minilm] [--recipes 30] [--seed 0] [--threads 2] [--seconds 2] [--store FILE]

The model is compiled once for each rung; then mixtures are drawn, predicted, compiled and timed in turns with the dense model. Nothing is
learnt from one mixture for the next. A third of the layers with zeros stand at sparsities between two that were measured. With a store,
what was measured before is not measured again. Writes benchmarks/results/ladder-predicted.json and .md when all models have run.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.results import markdown_table, outcome, write
from models import minilm, pp_ocr_rec, vit_small
from sparsecc.api.trials import Trials
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.rungs import Rung, ladder
from sparsecc.autotune.store import Store

MEDIAN, WORST = 0.05, 0.12  # what is promised of the errors
_STEP = 0.05  # of sparsities between those measured
_BETWEEN = 1 / 3  # of the layers with zeros


@dataclass(frozen=True)
class Subject:
    """title: names the model and the shape.  open: given the number of threads."""

    title: str
    open: Callable[[int], Trials]


def _ocr(threads: int) -> Trials:
    inputs = pp_ocr_rec.example_inputs()
    shapes = {name: value.shape for name, value in inputs.items()}
    return Trials.open(pp_ocr_rec.build(), inputs, threads=threads, input_shapes=shapes)


def _torch(model: Any, batch: int, threads: int) -> Trials:
    return Trials.open(model.build(), model.example_inputs(batch), threads=threads)


SUBJECTS: Mapping[str, Subject] = {
    "minilm": Subject("MiniLM, one sentence padded to 128 tokens", partial(_torch, minilm, 1)),
    "ocr": Subject("PP-OCRv4's recognizer, one line of 48 x 320 pixels", _ocr),
    "vit": Subject("A ViT of 0.5 M parameters, 32 images of 16 patches", partial(_torch, vit_small, 32)),
}


def main() -> int:
    arguments = _parser().parse_args()
    console = Console(stderr=True)
    found = []
    with Store(arguments.store) as store:
        for name in arguments.model or SUBJECTS:
            found.append(measured(SUBJECTS[name], arguments, store, console))
            print(summary(found[-1]))
    document = {"machine": machine(), "threads": arguments.threads, "seed": arguments.seed, "recipes": arguments.recipes, "models": found}
    document |= {"outcome": outcome("; ".join(map(summary, found)), all(map(kept, found)))}
    table = markdown(document)
    print(table)
    if not arguments.model and not arguments.quick:
        for path in write("ladder-predicted", document, table):
            print(f"wrote {path}")
    return 0 if arguments.quick or document["outcome"]["reached"] else 1


def measured(subject: Subject, arguments: argparse.Namespace, store: Store, console: Console) -> dict[str, Any]:
    trials = subject.open(arguments.threads)
    rungs = [rung for rung in ladder(trials.dtypes) if not arguments.quick or str(rung) in _QUICK]
    start = time.perf_counter()
    with console.status(f"{subject.title}: measuring {len(rungs)} rungs") as status:
        cost = Cost.measured(
            trials, rungs, store, arguments.seconds, lambda now: status.update(f"{subject.title}: {now.note} {now.done}/{now.total}")
        )
    seconds = time.perf_counter() - start
    drawn, rows = random.Random(arguments.seed), []
    for number in range(arguments.recipes):
        assignment = mixture(cost, trials.sites, drawn)
        predicted = cost.predict(assignment)
        with console.status(f"{subject.title}: mixture {number + 1} of {arguments.recipes}"):
            actual = cost.check(assignment, arguments.seconds)
        rows.append({"predicted_ms": predicted, "measured_ms": actual, "error": predicted / actual - 1, "bytes": cost.bytes(assignment)})
        console.print(f"{predicted:.3f} ms predicted, {actual:.3f} ms measured ({predicted / actual - 1:+.1%})", highlight=False)
    errors = [abs(row["error"]) for row in rows]
    return {
        "model": subject.title,
        "layers": len(trials.sites),
        "rungs": [str(rung) for rung in cost.measured_rungs],
        "seconds": seconds,
        "dense_ms": cost.dense_ms,
        "median": float(np.median(errors)),
        "worst": max(errors),
        "rows": rows,
    }


def mixture(cost: Cost, sites: Sequence[str], drawn: random.Random) -> dict[str, Rung]:
    """A rung for each layer, of those that it can be on; some between two of them. Layers that become narrower together do so by the same
    share."""
    found, shares = dict[str, Rung](), dict[str, float | None]()
    for group in cost.trials.groups.values():
        common = set.intersection(*({rung.narrow for rung in cost.rungs(layer)} for layer in group.layers))
        share = drawn.choice(sorted(common, key=lambda one: one or 0.0))
        shares |= dict.fromkeys(group.layers, share)
    for site in sites:
        known = [rung for rung in cost.rungs(site) if rung.narrow == shares.get(site)]
        rung = drawn.choice(known)
        if rung.sparsity is not None and drawn.random() < _BETWEEN:
            levels = [one.sparsity for one in known if one.family == rung.family and one.sparsity is not None]
            steps = round((max(levels) - min(levels)) / _STEP)
            rung = rung.at(round(min(levels) + _STEP * drawn.randint(0, steps), 4))
        found[site] = rung
    return found


def summary(found: Mapping[str, Any]) -> str:
    return f"{found['model']}: median error {found['median']:.1%}, worst {found['worst']:.1%} of {len(found['rows'])}"


def kept(found: Mapping[str, Any]) -> bool:
    """Whether the errors are as small as promised."""
    return bool(found["median"] <= MEDIAN and found["worst"] <= WORST)


def markdown(document: Mapping[str, Any]) -> str:
    about = (
        f"{document['recipes']} random mixtures of rungs over the layers of each model (seed {document['seed']}), {document['threads']} "
        f"threads: time predicted from one profile for each rung against time measured. Promised: median {MEDIAN:.0%}, worst {WORST:.0%}."
    )
    head = ["model", "layers", "rungs", "dense ms", "mixtures ms", "median error", "worst error", "promise"]
    return f"{about}\n\n" + markdown_table(head, [_cells(found) for found in document["models"]])


def _cells(found: Mapping[str, Any]) -> list[str]:
    times = [row["measured_ms"] for row in found["rows"]]
    return [
        found["model"],
        str(found["layers"]),
        str(len(found["rungs"])),
        f"{found['dense_ms']:.2f}",
        f"{min(times):.2f}-{max(times):.2f}",
        f"{found['median']:.1%}",
        f"{found['worst']:.1%}",
        "reached" if kept(found) else "missed",
    ]


_QUICK = ("dense", "int8", "int8 narrow 25%", "int8 1x4 50%", "int8 1x4 70%", "4x1 50%", "4x1 70%")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SUBJECTS), action="append", help="only this one (nothing is written)")
    parser.add_argument("--recipes", type=int, default=30, help="mixtures of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each profile, and for each comparison with the dense model")
    parser.add_argument("--store", metavar="FILE", help="where measurements are kept and found")
    parser.add_argument("--quick", action="store_true", help="few rungs: whether it runs (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
