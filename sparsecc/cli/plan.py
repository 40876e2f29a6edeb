"""sparsecc plan"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sparsecc.cli.common import JsonOption, working, writable, write_json

app = typer.Typer(name="plan", help="Look at block maps of attention, and export them.", rich_markup_mode=None, no_args_is_help=True)
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN.json", help="A plan file.")]


@app.command()
def inspect(
    path: PlanArgument,
    site: Annotated[str | None, typer.Option("--site", metavar="NAME", help="This attention alone.")] = None,
    json: JsonOption = None,
) -> None:
    """Per attention and head: the tokens' grid and order, and which share of the blocks is kept."""
    from sparsecc.api import plans

    writable(json, path)
    found = plans.about(path, site)
    write_json(json, found)
    print(f"{path}: version {found['plan']}, {len(found['maps'])} maps, model {found['model'][:12]}")
    for row in found["maps"]:
        print("\n".join([_line(row), *_heads(row)]))


@app.command()
def export(
    path: PlanArgument,
    to: Annotated[
        Literal["flex", "bsr", "bitmap"], typer.Option("--to", help="Lists of FlexAttention, block sparse rows, or mask ids of SpargeAttn.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="The file to write.")],
    json: JsonOption = None,
) -> None:
    """Write the maps as other libraries take them; the file is read back and compared."""
    from sparsecc.api import plans

    writable(out, path)
    writable(json, path, out)
    with working(f"exporting {path}"):
        rows = plans.export(path, to, out)
    write_json(json, {"form": to, "maps": rows})
    print(f"{out}: {len(rows)} maps as {to}")
    for row in rows:
        if row["exported"] > row["density"]:
            print(f"note: {_named(row)}: density {row['exported']:.2f} as exported, {row['density']:.2f} in the plan")


def _named(row: dict[str, Any]) -> str:
    begin, end = row["steps"]
    return str(row["name"]) if (begin, end) == (0, 1) else f"{row['name']}, steps {begin:g} to {end:g}"


def _line(row: dict[str, Any]) -> str:
    from sparsecc.report.table import printable

    text = f" and {row['text_tokens']} text tokens {'before' if row['text_first'] else 'after'}" if row["text_tokens"] else ""
    grid = f"{'×'.join(map(str, row['grid']))}{text}"
    causal = ", causal" if row["causal"] else ""
    return f"{printable(_named(row))}  {row['tokens']} tokens ({grid}) in blocks of {row['block']}{causal}, density {row['density']:.2f}"


def _heads(row: dict[str, Any]) -> list[str]:
    shares = ["dense" if number in row["dense_heads"] else f"density {head['density']:.2f}" for number, head in enumerate(row["heads"])]
    orders = [{"": "of the model", "own": "of its own"}.get(head["order"], head["order"]) for head in row["heads"]]
    return [f"    head {number}  {share}  order {order}" for number, (share, order) in enumerate(zip(shares, orders, strict=True))]
