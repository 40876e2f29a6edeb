"""MiniLM at a rank correlation of 0.99 with its own similarities, searched for in 60 minutes, recovery included, against OpenVINO's int8.

    python -m benchmarks.ladder.spearman [--minutes 60] [--seed 0] [--threads 2] [--seconds 60] [--quick]

Writes benchmarks/results/ladder-spearman.json and .md; exits with 1 when the promise is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from benchmarks.accuracy.pareto import layers
from benchmarks.accuracy.subjects import SUBJECTS
from benchmarks.ladder.duel import Field, why
from benchmarks.machine import machine
from benchmarks.results import markdown_table, outcome, write

GOAL, METRIC = "spearman>=0.99", "spearman"
AT_LEAST = 1.4  # times the speed of OpenVINO's int8


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    document = measured(arguments, console)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    if not arguments.quick:
        for path in write("ladder-spearman", document, table):
            console.print(f"wrote {path}")
    return 0 if document["outcome"]["reached"] else 1


def measured(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    subject = SUBJECTS["minilm"]
    sizes = subject.quick if arguments.quick else subject.full
    case = subject.load(sizes)
    field = Field(case.work, case.calibration, case.held_out, METRIC, subject.transformer, arguments.threads)
    peer, quality = field.baseline(arguments.seconds / 4)
    found = field.searched(GOAL, arguments.minutes, arguments.seed, console)
    best = None if found.best is None else field.against(found, peer, arguments.seconds)
    return {
        "machine": machine(),
        "threads": arguments.threads,
        "minutes": arguments.minutes,
        "seed": arguments.seed,
        "held_out": sizes.held_out,
        "models": len(found.points),
        "peer": peer.name,
        "peer_quality": quality,
        "best": best,
        "why": why(found),
        "outcome": outcome(*verdict(best, peer.name)),
    }


def verdict(best: Mapping[str, Any] | None, peer: str) -> tuple[str, bool]:
    if best is None:
        return "no model meets the goal", False
    times = best["times"]["median"]
    return f"{times:.2f} times {peer}, spearman {best['quality']:.4f}", times >= AT_LEAST


def markdown(document: Mapping[str, Any]) -> str:
    about = (
        f"MiniLM, one sentence padded to 128 tokens, {document['threads']} threads, {GOAL} on {document['held_out']} sentences held "
        f"out, {document['minutes']:g} minutes (seed {document['seed']}), {document['models']} models made. Wanted: {AT_LEAST} times the "
        f"speed of OpenVINO's int8, the faster of its two. {document['why']}."
    )
    best = document["best"]
    if best is None:
        return about
    rows = [
        ["sparsecc", f"{best['ms']:.2f}", f"{best['quality']:.4f}", layers(best["recipe"])],
        [document["peer"], f"{best['peer_ms']:.2f}", f"{document['peer_quality']:.4f}", ""],
    ]
    spread = best["times"]
    ratio = f"{spread['median']:.2f} times as fast, 10th to 90th percentile {spread['p10']:.2f}-{spread['p90']:.2f}."
    return f"{about}\n\n{ratio}\n\n" + markdown_table(["engine", "ms", "spearman", "layers"], rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="for the timing of the pairs")
    parser.add_argument("--quick", action="store_true", help="few inputs: whether it runs (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
