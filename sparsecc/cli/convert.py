"""sparsecc convert"""

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
    VerifyOption,
    input_shapes,
    require_right,
    watching,
    working,
    writable,
    write_json,
)
from sparsecc.cli.ranks import leads


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="An ONNX file.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The ONNX file to write.")],
    recipe: RecipeOption = None,
    calib: CalibrationOption = None,
    input_shape: ShapesOption = None,
    check: Annotated[
        int | None,
        typer.Option(
            "--check",
            min=0,
            metavar="N",
            help="Compare outputs with the masked model's on N samples. Left out: one, if shapes are known.",
        ),
    ] = None,
    print_after: PrintAfterOption = None,
    dump: DumpOption = None,
    verify: VerifyOption = False,
    json: JsonOption = None,
) -> None:
    """Prune and pack an ONNX model; the result runs in any onnxruntime."""
    from sparsecc.api import convert_graph
    from sparsecc.recipe import Recipe

    writable(output, source, recipe, calib)
    writable(json, source, recipe, calib, output)
    with working(f"converting {source.name}") as progress:
        steps = Recipe.load(recipe)
        watched = watching(steps, print_after, dump, verify)
        graph, report = convert_graph(source, steps, calib, input_shapes(input_shape), check, progress, **watched)
    if not leads():
        return
    require_right(report)
    graph.save(output)
    write_json(json, report.to_dict())
    print(report)
