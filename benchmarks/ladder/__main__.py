"""The table of what a search for a goal must reach, each row from one command.

    python -m benchmarks.ladder [ROW ...] [--table]

Runs the rows named, or all of them, one after another, each in a process of its own: all of them take five hours on two cores. A row writes
its own results, so that rows may be run on different days. Then the table is made of what there is, benchmarks/results/ladder.md, each row
with its date and machine; --table makes it without running anything. Exits with 1 when a row of those named is missed, or has no result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.results import markdown_table

NAME = "ladder"


@dataclass(frozen=True)
class Row:
    """what: is measured.  target: what it must reach.  module: the command that measures it.  result: what that writes, under
    benchmarks/results; with what `results.outcome` gives under `outcome`."""

    name: str
    what: str
    target: str
    module: str
    result: str

    def run(self) -> int:
        """The command's exit code."""
        return subprocess.run([sys.executable, "-m", self.module], check=False).returncode

    @property
    def found(self) -> Mapping[str, Any] | None:
        """What it has written; None where it was never run. Raises KeyError for a document that says nothing to the ladder."""
        path = results.FOLDER / f"{self.result}.json"
        if not path.exists():
            return None
        document = json.loads(path.read_text())
        return {**document["outcome"], "machine": document["machine"]}


ROWS = (
    Row(
        "predicted",
        "predicted against measured time of whole models, 30 random recipes on MiniLM, PP-OCR's recognizer and a ViT",
        "median error 5 %, worst 12 %",
        "benchmarks.ladder.predicted",
        "ladder-predicted",
    ),
    Row(
        "pareto",
        "MiniLM, `pareto`, 30 minutes, against recipes with one pattern",
        "as fast at every cosine from 0.93 to 0.995, 1.10 times somewhere; at 0.99 1.25 times our dense int8",
        "benchmarks.ladder.pareto",
        "ladder-pareto",
    ),
    Row(
        "spearman",
        "MiniLM, `spearman>=0.99`, 60 minutes with recovery",
        "1.4 times OpenVINO's int8",
        "benchmarks.ladder.spearman",
        "ladder-spearman",
    ),
    Row(
        "strangers",
        "six models from packages, 20 minutes each",
        "4 of 6 faster than OpenVINO's int8 at no worse metric",
        "benchmarks.ladder.strangers",
        "ladder-strangers",
    ),
    Row(
        "kernels",
        "20 kernel specs kept aside",
        "default knobs within 15 % of the exhaustive best, within 5 % after 10 % of the space",
        "benchmarks.ladder.kernels",
        "ladder-kernels",
    ),
    Row(
        "fleet",
        "four servers on one machine, candidates bound by compiling; one killed",
        "1.7 times the measurements per minute of one; nothing lost",
        "benchmarks.fleet",
        "fleet",
    ),
    Row(
        "killed",
        "`kill -9` at 20 moments",
        "at most one measurement lost, the same recipe",
        "benchmarks.ladder.killed",
        "ladder-killed",
    ),
)


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.row) - {row.name for row in ROWS}:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(row.name for row in ROWS)}")
    chosen = [row for row in ROWS if not arguments.row or row.name in arguments.row]
    for row in chosen if not arguments.table else ():
        print(f"== {row.name}: {row.what}", flush=True)
        row.run()
    print(table(ROWS))
    print(f"wrote {publish(ROWS)}")
    return 0 if all((found := row.found) is not None and found["reached"] for row in chosen) else 1


def publish(rows: Sequence[Row]) -> str:
    """Writes the table, which has a machine in each row and so none of its own below; gives the path."""
    results.FOLDER.mkdir(exist_ok=True)
    path = results.FOLDER / f"{NAME}.md"
    path.write_text(table(rows) + "\n")
    return str(path)


def table(rows: Sequence[Row]) -> str:
    return markdown_table(["row", "what", "must reach", "measured", "", "date", "machine"], [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    about, found = [row.name, row.what, row.target], row.found
    if found is None:
        return [*about, "", "not measured", "", ""]
    machine = found["machine"]
    return [
        *about,
        found["measured"],
        "reached" if found["reached"] else "missed",
        found["date"],
        f"{machine['cpu']}, {machine['cores']} cores",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="*", metavar="ROW", help=", ".join(row.name for row in ROWS))
    parser.add_argument("--table", action="store_true", help="make the table of what there is, run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
