"""Everything that is promised of the CPU engine, against the peers of the same run.

    python -m benchmarks.cpu [--threads 2] [--seconds 120] [--only bert128] ...

Writes benchmarks/results/cpu.json and .md, or with --only cpu-PART. Exits with 1 when a row is missed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks import bert_base, callers, convolutions, decode, efficiency, run_memory
from benchmarks.machine import machine
from benchmarks.promises import Promise, promise_table
from benchmarks.results import write
from sparsecc import memory
from sparsecc.timing import Spread

Document = dict[str, Any]
OTHER_SHAPES = 0.85  # of the promises at 128 tokens
COMPILE_SECONDS = 60


@dataclass(frozen=True)
class Part:
    """measure(threads, seconds, console): seconds are those of the whole command's option, of which each part takes its share."""

    measure: Callable[[int, float, Console], Document]
    markdown: Callable[[Document], str]
    promises: Callable[[Document], list[Promise]]


def _bert(batch: int, tokens: int, scale: float) -> Part:
    groups = [group.promised(scale) for group in bert_base.GROUPS]

    def measure(threads: int, seconds: float, console: Console) -> Document:
        return bert_base.measured(threads, seconds, console, batch, tokens, groups)

    return Part(measure, bert_base.markdown, lambda document: [*bert_base.promises(document), _compiling(document)])


def _compiling(document: Mapping[str, Any]) -> Promise:
    """The slowest compile of all rows."""
    slowest = max((row for row in document["rows"] if "compile_seconds" in row), key=lambda row: row["compile_seconds"])
    seconds = slowest["compile_seconds"]
    share = seconds / COMPILE_SECONDS
    part = f"compile, BERT-base, {document['tokens']} tokens, batch {document['batch']}"
    return Promise(part, slowest["name"], f"{COMPILE_SECONDS} s", Spread(share, share, share), 1.0, most=True, ms=1e3 * seconds)


PARTS = {
    "bert128": _bert(1, 128, 1.0),
    "bert512": _bert(1, 512, OTHER_SHAPES),
    "bert128x8": _bert(8, 128, OTHER_SHAPES),
    "convolutions": Part(
        lambda threads, seconds, console: convolutions.measured(threads, seconds / 3, console), convolutions.markdown, convolutions.promises
    ),
    "decode": Part(lambda threads, seconds, console: decode.measured(threads, seconds / 15, console), decode.table, decode.promises),
    "efficiency": Part(
        lambda threads, seconds, console: efficiency.measured(threads, seconds / 2, console), efficiency.markdown, efficiency.promises
    ),
    "memory": Part(lambda threads, seconds, console: run_memory.measured(threads, console), run_memory.markdown, run_memory.promises),
    "callers": Part(lambda threads, seconds, console: callers.measured(threads, seconds / 4, console), callers.markdown, callers.promises),
}


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    names = arguments.only or list(PARTS)
    found: dict[str, Document] = {}
    failed = []
    for name in names:
        console.rule(name)
        start = time.perf_counter()
        try:
            found[name] = PARTS[name].measure(arguments.threads, arguments.seconds, console)
        except RuntimeError as error:  # wrong outputs, a process that died: the other parts are not lost
            console.print(f"{name} failed: {error}", markup=False)
            failed.append(f"{name} failed: {error}")
            continue
        found[name]["wall_seconds"] = time.perf_counter() - start
        console.print(promise_table(PARTS[name].promises(found[name])), markup=False, highlight=False, soft_wrap=True)
        gc.collect()
        memory.trim()
    promises = [promise for name in found for promise in PARTS[name].promises(found[name])]
    table = "\n\n".join([markdown(found, promises, arguments.threads), *failed])
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write("-".join(["cpu", *(arguments.only or [])]), document(found, promises, arguments.threads), table):
        console.print(f"wrote {path}")
    return 0 if not failed and all(promise.reached for promise in promises) else 1


def document(found: Mapping[str, Document], promises: Sequence[Promise], threads: int) -> Document:
    return {"machine": machine(), "threads": threads, "promises": [promise.to_dict() for promise in promises], "parts": dict(found)}


def markdown(found: Mapping[str, Document], promises: Sequence[Promise], threads: int) -> str:
    reached = sum(promise.reached for promise in promises)
    parts = "".join(f"\n\n## {name}\n{PARTS[name].markdown(part)}\n\n{part['wall_seconds']:.0f} s" for name, part in found.items())
    return (
        f"# What is promised on the CPU\n{threads} threads. Reached: {reached} of {len(promises)}. Each row is a ratio to the baseline "
        f"beside it; times are medians, taken in turns with the baseline's.\n\n{promise_table(promises)}{parts}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120, help="to time BERT-base at one shape; other parts take a share of it")
    parser.add_argument("--only", choices=PARTS, action="append", metavar="PART", help=f"only this part: {', '.join(PARTS)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
