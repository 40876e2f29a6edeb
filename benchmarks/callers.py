"""Four callers in four threads on one compiled model, against one caller: the same answers, and no less throughput.

    python -m benchmarks.callers [--threads 2] [--seconds 30]

BERT-base, 128 tokens, 4x1 70 %. Each turn is as many calls, of one thread or shared by four that start together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.machine import machine
from benchmarks.peers import flat
from benchmarks.promises import Promise, promise_of
from benchmarks.results import markdown_table
from sparsecc.timing import Spread, interleave, speedup

CALLERS, EACH = 4, 2  # calls of each caller in a turn
ONE, FOUR = "one caller", f"{CALLERS} callers"
PART = "BERT-base, 128 tokens, batch 1, 4x1 70 %, calls from threads"

Outputs = Sequence[np.ndarray]


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    document = measured(arguments.threads, arguments.seconds, console)
    console.print(markdown(document), markup=False, highlight=False, soft_wrap=True)
    return 0 if all(promise.reached for promise in promises(document)) else 1


def measured(threads: int, seconds: float, console: Console) -> dict[str, Any]:
    import sparsecc
    from models import bert_base

    with console.status("compiling BERT-base"):
        compiled = sparsecc.compile(bert_base.build(), bert_base.example_inputs(), recipe=bert_base.recipe("4x1", 0.7), threads=threads)
    inputs = [[tensor.numpy() for tensor in sample] for sample in bert_base.calibration(CALLERS)]
    calls: list[Callable[[], Outputs]] = [lambda values=values: flat(compiled(*values)) for values in inputs]
    with Progress(console=console) as bar:
        task = bar.add_task("timing callers", total=1.0)
        rows = race(calls, seconds, lambda done: bar.update(task, completed=done))
    return {"machine": machine(), "threads": threads, "rows": rows}


def race(calls: Sequence[Callable[[], Outputs]], seconds: float, progress: Callable[[float], None] | None = None) -> list[dict[str, Any]]:
    """calls: one for each caller, with inputs of its own. Times are of EACH × callers calls."""
    expected = [call() for call in calls]
    wrong: list[int] = []

    def several(number: int) -> None:
        for _ in range(EACH):
            if not all(np.array_equal(a, b) for a, b in zip(calls[number](), expected[number], strict=True)):
                wrong.append(number)

    with ThreadPoolExecutor(1) as single, ThreadPoolExecutor(len(calls)) as many:
        turns = {
            ONE: lambda: single.submit(lambda: [several(number) for number in range(len(calls))]).result(),
            FOUR: lambda: list(many.map(several, range(len(calls)))),
        }
        timings = interleave(turns, seconds=seconds, burst=1, progress=progress)
    faster = speedup(timings[FOUR], over=timings[ONE])
    none: dict[str, Any] = {"at_least": None, "reached": None}
    many_row = {"at_least": 1.0, "reached": faster.median >= 1 and not wrong, "right": not wrong, "wrong_answers": len(wrong)}
    return [
        timings[ONE].to_dict() | {"calls": EACH * len(calls), "speedup": Spread(1, 1, 1).to_dict()} | none,
        timings[FOUR].to_dict() | {"calls": EACH * len(calls), "speedup": faster.to_dict()} | many_row,
    ]


def promises(document: Mapping[str, Any]) -> list[Promise]:
    return [promise_of(row, PART, ONE) for row in document["rows"] if row["at_least"]]


def markdown(document: Mapping[str, Any]) -> str:
    head = ["", "calls per second", "p10-p90", "throughput over one", "p10-p90", "wrong answers"]
    about = f"{PART}, {document['threads']} threads for each call. Answers have to be one caller's to the last bit."
    return f"{about}\n\n{markdown_table(head, [_cells(row) for row in document['rows']])}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    rate = {name: 1e3 * row["calls"] / ms for name, ms in row["ms"].items()}
    more = Spread(**row["speedup"])
    return [
        row["name"],
        f"{rate['median']:.1f}",
        f"{rate['p90']:.1f}-{rate['p10']:.1f}",
        f"{more.median:.2f}",
        f"{more.p10:.2f}-{more.p90:.2f}",
        str(row.get("wrong_answers", 0)),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30, help="for the timing; compiling comes on top")
    return parser


if __name__ == "__main__":
    sys.exit(main())
