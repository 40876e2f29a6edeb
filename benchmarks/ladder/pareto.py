"""What a search for the front finds of MiniLM in 30 minutes, against recipes with one pattern for all layers, at equal cosine.

    python -m benchmarks.ladder.pareto [--minutes 30] [--seed 0] [--threads 2] [--seconds 120] [--steps 200] [--quick]

All is measured in one run, as `benchmarks.accuracy.pareto --model minilm` does, whose results it writes, too. At each cosine the fastest
model that has it is taken, of those found and of those with one pattern. Writes benchmarks/results/ladder-pareto.json and .md; exits with 1
when something is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.accuracy import pareto
from benchmarks.accuracy.subjects import SUBJECTS
from benchmarks.results import markdown_table, outcome, write
from sparsecc.timing import Timing, speedup

MODEL = "minilm"
COSINES = (0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
SOMEWHERE = 1.10  # times as fast as the best with one pattern
AT, INT8 = 0.99, 1.25  # the cosine at which it is so many times as fast as our int8 without zeros
_EQUAL = 0.99  # times that lie this close are one: the same recipe, timed twice, differs by as much
_DENSE_INT8 = "sparsecc int8 dense"
Row = Mapping[str, Any]


def main() -> int:
    arguments = _arguments()
    console = Console()
    document = pareto.measured(SUBJECTS[MODEL], arguments, console)
    found = judged(document)
    table = markdown(found)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    if not arguments.quick:
        pareto.published(MODEL, document, pareto.markdown(SUBJECTS[MODEL], document))
        for path in write("ladder-pareto", found, table):
            console.print(f"wrote {path}")
    return 0 if found["outcome"]["reached"] else 1


def judged(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of a document of `benchmarks.accuracy.pareto`: for each cosine the fastest found, the fastest with one pattern, and how many times as
    fast the first is."""
    ours = [row for row in document["rows"] if row["name"].startswith("sparsecc ")]
    found = [row for row in ours if row["name"].startswith(pareto.FOUND)]
    single = [row for row in ours if not row["name"].startswith(pareto.FOUND)]
    levels = [_level(cosine, found, single) for cosine in COSINES]
    best = fastest(found, AT)
    int8 = None if best is None else _times(best, next(row for row in single if row["name"] == _DENSE_INT8))
    kept = {key: document[key] for key in ("machine", "threads", "minutes", "seed", "samples", "held_out")}
    return {**kept, "levels": levels, "int8": int8, "outcome": outcome(*_verdict(levels, int8))}


def fastest(rows: Sequence[Row], cosine: float) -> Row | None:
    """The row that takes the least time, of those with this cosine."""
    return min((row for row in rows if row["quality"] >= cosine), key=lambda row: row["ms"]["median"], default=None)


def _level(cosine: float, found: Sequence[Row], single: Sequence[Row]) -> dict[str, Any]:
    """times: None where only one side has this cosine."""
    ours, theirs = fastest(found, cosine), fastest(single, cosine)
    return {
        "cosine": cosine,
        "found": _short(ours),
        "single": _short(theirs),
        "times": None if ours is None or theirs is None else _times(ours, theirs),
    }


def _short(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else {"name": row["name"], "ms": row["ms"]["median"], "quality": row["quality"]}


def _times(ours: Row, theirs: Row) -> float:
    """Round by round."""
    mine, its = (Timing(row["name"], tuple(row["samples_s"])) for row in (ours, theirs))
    return speedup(mine, over=its).median


def _verdict(levels: Sequence[Mapping[str, Any]], int8: float | None) -> tuple[str, bool]:
    """A cosine that no recipe with one pattern has is no level to be beaten at; one that nothing found has is."""
    asked = [level for level in levels if level["single"] is not None]
    times = [level["times"] or 0.0 for level in asked]
    least, most = min(times, default=0.0), max(times, default=0.0)
    words = f"{least:.2f} to {most:.2f} times the best with one pattern; at {AT} {int8 or 0:.2f} times our dense int8"
    return words, least >= _EQUAL and most >= SOMEWHERE and (int8 or 0.0) >= INT8


def markdown(found: Mapping[str, Any]) -> str:
    about = (
        f"MiniLM, one sentence padded to 128 tokens, {found['threads']} threads: a search for the front in {found['minutes']:g} minutes "
        f"(seed {found['seed']}) against recipes with one pattern for all layers, timed in turns, judged by {found['held_out']} sentences "
        f"held out. Wanted: at every cosine at least as fast (times within {1 - _EQUAL:.0%} count as equal), {SOMEWHERE:.2f} times "
        f"somewhere, and at {AT} {INT8:.2f} times our int8 without zeros: {found['int8'] or 0:.2f}. "
        f"{'Reached' if found['outcome']['reached'] else 'Missed'}."
    )
    cells = [
        [f"{level['cosine']:g}", *_cells(level["found"]), *_cells(level["single"]), _shown(level["times"])] for level in found["levels"]
    ]
    return f"{about}\n\n" + markdown_table(["cosine at least", "found", "ms", "with one pattern", "ms", "times as fast"], cells)


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    return ["none", ""] if row is None else [f"{row['name'].removeprefix('sparsecc ')} ({row['quality']:.4f})", f"{row['ms']:.2f}"]


def _shown(times: float | None) -> str:
    return "" if times is None else f"{times:.2f}"


def _arguments() -> Any:
    """Those of `benchmarks.accuracy.pareto`, with one model and all its recipes."""
    parser = pareto.parser(__doc__)
    parser.set_defaults(seconds=120.0)
    arguments = parser.parse_args()
    if arguments.model not in (None, [MODEL]) or arguments.row:
        parser.error(f"the row is about {MODEL} and all recipes; leave out --model and --row")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
