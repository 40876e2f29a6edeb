"""What a search has found, in words and files: the verdict, every model with its recipe, and the model that was chosen."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc._version import __version__
from sparsecc.autotune.condition import BYTES_KEPT
from sparsecc.files import json_text, write_text
from sparsecc.recipe import Recipe
from sparsecc.recipe_yaml import yaml_text
from sparsecc.report.search import SearchReport, SearchRow, shown

if TYPE_CHECKING:
    from sparsecc.autotune.maker import Point
    from sparsecc.autotune.tune import Found

RECIPE, PAGE, DATA, FRONT = "recipe.yaml", "search.html", "search.json", "front"
MODEL, REPORT = "model.sparsecc", "report.html"  # of the model that was chosen


def report(found: Found, command: str = "") -> SearchReport:
    """command: that shows it again."""
    key = found.goal.quality
    rows = [_row(point, found, key) for point in found.points]
    notes = [f"stopped after {found.seconds:.0f} s: {found.stopped}"]
    notes += found.notes
    notes += [f"{name} {'left out' if name == 'recovery' else 'is not measured'}: {why}" for name, why in found.left_out.items()]
    return SearchReport(
        sparsecc=__version__,
        model=found.model,
        goal=str(found.goal),
        met=found.best is not None or (found.goal.pareto and bool(found.front)),
        verdict=_verdict(found),
        metric=key,
        machine=found.machine,
        seconds=found.seconds,
        rows=tuple(rows),
        command=command,
        notes=tuple(notes),
    )


def write(found: Found, folder: str | PathLike[str], command: str = "") -> SearchReport:
    """The page, the data, the recipe that was chosen, and that of each model on the front. What an earlier search for another goal has
    written is removed, its model too."""
    made, target = report(found, command), Path(folder)
    for old in (*(target / name for name in (RECIPE, MODEL, REPORT)), *(target / FRONT).glob("*.yaml")):
        old.unlink(missing_ok=True)
    write_text(target / DATA, json_text(made.to_dict()))
    write_text(target / PAGE, made.to_html())
    if found.best is not None:
        write_text(target / RECIPE, yaml_text(found.best.recipe))
    (target / FRONT).mkdir(exist_ok=True)
    for number, point in enumerate(found.front):
        write_text(target / FRONT / f"{number:02}-{point.ms:.3f}ms.yaml", yaml_text(point.recipe))
    return made


def _row(point: Point, found: Found, key: str) -> SearchRow:
    return SearchRow(
        ms=point.ms,
        predicted_ms=point.predicted_ms,
        bytes=round(point.measured[BYTES_KEPT]),
        quality=shown(point.measured, key),
        error=point.error,
        recipe=Recipe.load(point.recipe).to_text() or "as it came",
        front=point in found.front,
        best=point is found.best,
        misses=tuple(str(miss) for miss in found.goal.misses(point.measured)),
        recovered=point.recovered,
    )


def _verdict(found: Found) -> str:
    dense = found.points[0]
    if found.goal.pareto and found.front:
        fastest = found.front[0]
        quality = f"{found.goal.quality} {shown(fastest.measured, found.goal.quality):.5g}"
        gain = f"the fastest {dense.ms / fastest.ms:.2f} times as fast as dense, {quality}"
        return f"{found.goal}: {len(found.front)} of {len(found.points)} models are on the front, {gain}"
    if found.best is not None:
        best = found.best
        faster = f"{best.ms:.3f} ms instead of {dense.ms:.3f}, {dense.ms / best.ms:.2f} times as fast as dense"
        quality = f"{found.goal.quality} {shown(best.measured, found.goal.quality):.5g}"
        if best is dense:
            return f"{found.goal}: met by the model as it came; nothing that was tried is better"
        return f"{found.goal}: met, {faster}, {quality}, {best.measured[BYTES_KEPT] / 1e6:.2f} MB{', recovered' if best.recovered else ''}"
    nearest = f"; the nearest goal that one meets is {found.nearest}" if found.nearest is not None else ""
    return f"{found.goal}: met by none of {len(found.points)} models{nearest}"
