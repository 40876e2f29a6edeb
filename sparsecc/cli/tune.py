"""sparsecc tune"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.common import (
    CalibrationOption,
    JsonOption,
    RecipeOption,
    ShapesOption,
    TargetOption,
    ThreadsOption,
    input_shapes,
    say,
    writable,
    write_json,
)
from sparsecc.cli.goal import toward
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from sparsecc.codegen.tuning.tuner import Progress


def tune(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="An ONNX file, or a .pt2 that torch.export wrote.")],
    records: Annotated[
        Path | None, typer.Option("--records", metavar="DB", help="Measurements of kernels, for compile --records. Made when missing.")
    ] = None,
    recipe: RecipeOption = None,
    calib: CalibrationOption = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, metavar="N", help="Measurements to have in all. Left out, as --seconds: 32 a kernel.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, metavar="S", help="Time to spend, now.")] = None,
    goal: Annotated[
        str | None, typer.Option("--goal", metavar="GOAL", help='What to reach: "latency<=12ms,cosine>=0.99", or pareto. Searches recipes.')
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", metavar="NAME|MODULE:FUNCTION", help="What `metric` means in the goal.")] = None,
    held_out: Annotated[
        Path | None, typer.Option("--held-out", metavar="FILE", help="Of --goal: inputs to judge by. Left out: every fourth of --calib.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, metavar="M", help="Time for --goal.")] = 30.0,
    recover: Annotated[
        bool, typer.Option("--recover/--no-recover", help="Whether the last third of the time goes into learning what pruning cost.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Of --goal: a folder for recipe, model and page.")] = None,
    target: TargetOption = "cpu",
    threads: ThreadsOption = None,
    input_shape: ShapesOption = None,
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="Measure on the servers that TVM's RPC tracker has, not here.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Which servers: those that `sparsecc worker` started with it.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Search for faster kernels, or with --goal for a recipe. Stop it at any time: the same command goes on from there."""
    from sparsecc import api

    if goal is not None:
        _reject_with_goal(recipe=recipe, trials=trials, seconds=seconds, json=json, tracker=tracker, key=key)
        shapes = input_shapes(input_shape)
        options = {"calib": calib, "held_out": held_out, "out": out, "metric": metric, "minutes": minutes, "recover": recover}
        if not toward(source, goal, **options, target=target, threads=threads, records=records, input_shapes=shapes):
            raise typer.Exit(1)
        return
    for name, value in (("metric", metric), ("out", out), ("held-out", held_out), ("no-recover", None if recover else True)):
        if value is not None:
            raise UserError(f"--{name}: goes with --goal")
    if records is None:
        raise UserError("--records: name a file for what is measured, or give a --goal")
    writable(json, source, recipe, calib, records)
    try:
        with _bar(source.name) as progress:
            result = api.tune(
                source,
                records=records,
                recipe=recipe,
                calibration=calib,
                target=target,
                threads=threads,
                input_shapes=input_shapes(input_shape),
                trials=trials,
                seconds=seconds,
                progress=progress,
                tracker=tracker,
                key=key,
                notice=say,
            )
    except KeyboardInterrupt:
        say(f"{records}: holds what was measured; the same command goes on from there")
        raise
    write_json(json, result.to_dict())
    print(result)


def _reject_with_goal(**given: object) -> None:
    """Raises UserError for options that say something of kernels."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name}: goes with kernels, not with --goal, which finds recipes")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[Progress], None] | None]:
    """Task, trials, the gain so far and the time left, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    text = TextColumn("{task.description}", markup=False)
    with Bar(text, BarColumn(20), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(f"reading {name}", total=None)
        yield lambda now: bar.update(line, total=1.0, completed=min(now.share, 1.0), description=_line(now))


def _line(now: Progress) -> str:
    gain = "" if not now.untuned_us or not now.tuned_us else f"  all layers {now.untuned_us / 1e3:.2f} -> {now.tuned_us / 1e3:.2f} ms"
    return f"{now.trials} measured{gain}  now {now.task}"
