"""sparsecc explain"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.common import CalibrationOption, JsonOption, RecipeOption, ShapesOption, input_shapes, working, writable, write_json
from sparsecc.cli.ranks import leads
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from sparsecc.report.base import Report


def explain(
    source: Annotated[Path, typer.Argument(metavar="MODEL|REPORT", help="A model, an artifact, or a report in JSON.")],
    recipe: RecipeOption = None,
    calib: CalibrationOption = None,
    input_shape: ShapesOption = None,
    json: JsonOption = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps", metavar="DIR", help="Draw the maps of attention that the recipe makes block-sparse, before and after, here."
        ),
    ] = None,
) -> None:
    """Per layer: what was done, or what the recipe would do, and why."""
    writable(json, source, recipe, calib)
    with working(f"explaining {source}"):
        report = _report(source, recipe, calib, input_shape, maps)
    write_json(json, report.to_dict())
    print(report.explain() or "no layer with weights that a pass could work on")


def _report(source: Path, recipe: str | None, calib: Path | None, shapes: list[str] | None, maps: Path | None) -> Report:
    if source.suffix in (".sparsecc", ".json") and (recipe or calib or shapes or maps):
        raise UserError(f"{source}: says what was done already, so that --recipe, --calib, --input-shape and --maps come too late")
    if source.suffix == ".sparsecc":
        from sparsecc.runtime.artifact import read_report

        return read_report(source)
    if source.suffix == ".json":
        return read_json(source)
    from sparsecc.api import survey

    return survey(source, recipe=recipe, calibration=calib, input_shapes=input_shapes(shapes), maps=maps if leads() else None)


def read_json(path: Path) -> Report:
    """The report in a file. Raises UserError where something else is in it."""
    import json

    from sparsecc.files import require_regular
    from sparsecc.report.base import Report

    require_regular(path)
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no report of sparsecc: {error}") from None
