"""sparsecc records"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.common import JsonOption, writable, write_json

if TYPE_CHECKING:
    from sparsecc.codegen.tuning.exchange import Shown

app = typer.Typer(
    name="records", help="Look at what `tune` has measured, and carry it around.", rich_markup_mode=None, no_args_is_help=True
)
RecordsArgument = Annotated[Path, typer.Argument(metavar="DB", help="A file of `tune --records`.")]
_USES = {"here": "this machine", "hint": "another target, no more than a hint here", "outdated": "of other kernels or TVM, not used"}


@app.command()
def export(path: RecordsArgument, out: Annotated[Path, typer.Argument(metavar="OUT.json", help="JSON, a measurement per line.")]) -> None:
    """Write all measurements as text, for `records import`."""
    from sparsecc.codegen.tuning import exchange

    writable(out, path)
    print(f"{out}: {exchange.export(path, out)} measurements")


@app.command("import")
def load(
    source: Annotated[Path, typer.Argument(metavar="IN.json", help="What `records export` wrote.")],
    into: Annotated[Path, typer.Argument(metavar="DB", help="Gets the measurements. Made when missing.")],
) -> None:
    """Add exported measurements to a file; of two of the same candidate the better supported one stays."""
    from sparsecc.codegen.tuning import exchange

    writable(into, source)
    _say(into, *exchange.load(source, into))


@app.command()
def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="DB...", help="Files of `tune --records`.")],
    into: Annotated[Path, typer.Option("--into", metavar="DB", help="Gets the measurements, keeps its own. Made when missing.")],
) -> None:
    """Add the measurements of files to one; of two of the same candidate the better supported one stays."""
    from sparsecc.codegen.tuning import exchange

    writable(into, *sources)
    _say(into, *exchange.merge(sources, into))


@app.command()
def show(path: RecordsArgument, json: JsonOption = None) -> None:
    """Per target and task: how much was measured, the best, and whether it holds here; and which cost models there are."""
    from sparsecc.codegen.tuning import exchange

    writable(json, path)
    rows, models = exchange.show(path), exchange.models(path)
    write_json(json, {"records": str(path), "tasks": [row.to_dict() for row in rows], "models": [model.to_dict() for model in models]})
    for head, row in zip([None, *map(_head, rows)], rows, strict=False):
        if _head(row) != head:
            print(_head(row))
        print(f"    {_line(row)}")
    for model in models:
        print(model)
    print(f"{path}: {sum(row.measured for row in rows)} measurements of {len(rows)} tasks")


def _head(row: Shown) -> str:
    return f"{row.target}, {row.threads} threads ({_USES[row.use]})"


def _line(row: Shown) -> str:
    failed = f", {row.failures} failed" if row.failures else ""
    fastest = f"{row.best.median:.0f} µs by {row.knobs}" if row.best else "no time known here" if row.use == "outdated" else "no time"
    return f"{row.task}  {row.measured} measured{failed}  {fastest}"


def _say(into: Path, read: int, changed: int) -> None:
    print(f"{into}: {changed} of {read} measurements are new or better")
