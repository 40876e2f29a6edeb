"""sparsecc sensitivity"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecc.cli.common import JsonOption, ShapesOption, input_shapes, working, writable, write_json
from sparsecc.cli.ranks import leads
from sparsecc.errors import SparseccError, UserError


def sensitivity(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file, or a .pt2 of torch.export.")],
    calib: Annotated[
        Path, typer.Option("--calib", metavar="FILE", help="Inputs to measure on: .npz, one array per input, samples on the first axis.")
    ],
    pattern: Annotated[str, typer.Option(metavar="PATTERN", help="unstructured, or blocks as 4x1.")] = "unstructured",
    criterion: Annotated[str, typer.Option(metavar="NAME", help="Which weights go first, as in a recipe.")] = "magnitude",
    targets: Annotated[list[str] | None, typer.Option(metavar="TARGET", help="A layer, a kind or re:... Repeat for each.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="TARGET", help="Layers to leave out. Repeat for each.")] = None,
    level: Annotated[list[float] | None, typer.Option(metavar="SPARSITY", help="A sparsity to try. Repeat. Left out: 0.1 to 0.95.")] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Samples that the model runs on, for each layer and sparsity.")] = 4,
    input_shape: ShapesOption = None,
    json: JsonOption = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with table and curves.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also draw the curves.")] = None,
) -> None:
    """How much each layer alone, pruned to rising sparsities, costs the model's outputs."""
    from sparsecc.api.analyses import LEVELS
    from sparsecc.api.analyses import sensitivity as measure

    outputs = [path for path in (json, html, plot) if path is not None]
    for i, path in enumerate(outputs):
        writable(path, source, calib, *outputs[:i])
    if plot is not None:
        _require_matplotlib()
    with working(f"pruning the layers of {source.name}, one at a time"):
        report = measure(
            source,
            calibration=calib,
            pattern=pattern,
            criterion=criterion,
            targets=targets or (),
            ignore=ignore or (),
            levels=level or LEVELS,
            samples=samples,
            input_shapes=input_shapes(input_shape),
        )
    if not leads():
        return
    write_json(json, report.to_dict())
    if html is not None:
        report.to_html(html)
    if plot is not None and report.sites:
        report.plot(plot)
    print(report)
    if not report.sites:
        raise SparseccError("no layer could be pruned, the reasons are above")


def _require_matplotlib() -> None:
    """Before the long work and not after it."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib: pip install matplotlib")
