"""sparsecc compile"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecc.cli.common import (
    CalibrationOption,
    DumpOption,
    JsonOption,
    PrintAfterOption,
    RecipeOption,
    ShapesOption,
    TargetOption,
    ThreadsOption,
    VerifyOption,
    input_shapes,
    require_right,
    watching,
    working,
    writable,
    write_json,
)
from sparsecc.cli.ranks import leads


def compile(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="An ONNX file, or a .pt2 that torch.export wrote.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.sparsecc", help="The artifact to write.")],
    recipe: RecipeOption = None,
    calib: CalibrationOption = None,
    target: TargetOption = "cpu",
    threads: ThreadsOption = None,
    records: Annotated[Path | None, typer.Option("--records", metavar="DB", help="What `sparsecc tune` has measured.")] = None,
    input_shape: ShapesOption = None,
    print_after: PrintAfterOption = None,
    dump: DumpOption = None,
    verify: VerifyOption = False,
    json: JsonOption = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the report here, as a page.")] = None,
) -> None:
    """Prune, pack and generate code: one file for `sparsecc.load`."""
    import sparsecc
    from sparsecc.recipe import Recipe

    writable(output, source, recipe, calib, records)
    writable(json, source, recipe, calib, records, output)
    writable(html, source, recipe, calib, records, output, json)
    with working(f"compiling {source.name}") as progress:
        steps = Recipe.load(recipe)
        compiled = sparsecc.compile(
            source,
            recipe=steps,
            calibration=calib,
            target=target,
            threads=threads,
            records=records,
            input_shapes=input_shapes(input_shape),
            progress=progress,
            **watching(steps, print_after, dump, verify),
        )
    if not leads():
        return
    require_right(compiled.report)
    compiled.save(output)
    write_json(json, compiled.report.to_dict())
    if html is not None:
        compiled.report.to_html(html)
    print(compiled.report)
