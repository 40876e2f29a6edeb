"""sparsecc bench"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecc.cli.common import (
    CalibrationOption,
    InputsOption,
    JsonOption,
    RecipeOption,
    ShapesOption,
    ThreadsOption,
    input_shapes,
    require_right,
    say,
    working,
    writable,
    write_json,
)
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from sparsecc.runtime.compiled import Compiled
    from sparsecc.timing import Timing


def bench(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX or .pt2 file, which is compiled; or an artifact.")],
    recipe: RecipeOption = None,
    calib: CalibrationOption = None,
    inputs: InputsOption = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="NAMES", help="Engines, as onnxruntime,openvino,torch. Left out: those that can.")
    ] = None,
    dense: Annotated[
        Path | None, typer.Option("--dense", metavar="FILE", help="The model that the engines run. Left out: MODEL, unless an artifact.")
    ] = None,
    threads: ThreadsOption = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, metavar="S", help="Time to measure for.")] = 10.0,
    input_shape: ShapesOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time each kernel where it runs in the model, and say whose layer it computes.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Time a model against other engines, in turns; medians and spread."""
    from sparsecc.cli import engines
    from sparsecc.codegen.cpu.threads import physical_cores
    from sparsecc.timing import interleave

    writable(json, source, recipe, calib, inputs, dense)
    threads = threads or physical_cores()
    with working(f"preparing {source.name}"):
        compiled = _compiled(source, recipe, calib, threads, input_shapes(input_shape))
        values = _values(compiled, inputs)
        peer_model = dense or (None if source.suffix == ".sparsecc" else source)
        callables = {"sparsecc": lambda: compiled.flat(values)}
        for name in _names(against, peer_model):
            try:
                callables[name] = engines.prepare(name, peer_model, compiled.inputs, values, threads)
            except UserError as error:
                if against is not None:
                    raise
                say(f"left out: {error}")
    with working(f"timing {', '.join(callables)}"):
        timings = interleave(callables, seconds=seconds)
    result = _result(source, compiled, timings, threads)
    found = None
    if profile:
        with working("timing each kernel"):
            found = compiled.profile_of(values, seconds=seconds)
        result["profile"] = found.to_dict()
    write_json(json, result)
    for timing in timings.values():
        print(_line(timing, timings["sparsecc"]))
    if found is not None:
        print(f"\n{found}")


def _compiled(source: Path, recipe: str | None, calib: Path | None, threads: int, shapes: Any) -> Compiled:
    import sparsecc
    from sparsecc.api import on_cpu

    if source.suffix != ".sparsecc":
        compiled = sparsecc.compile(source, recipe=recipe, calibration=calib, threads=threads, input_shapes=shapes)
        require_right(compiled.report)
        return on_cpu(compiled, str(source))
    if recipe or calib or shapes:
        raise UserError(f"{source}: is compiled already, so that --recipe, --calib and --input-shape come too late")
    return on_cpu(sparsecc.load(source, threads), str(source))


def _values(compiled: Compiled, path: Path | None) -> list[Any]:
    from sparsecc.api.sources import random_inputs
    from sparsecc.calibration.npz import read_npz
    from sparsecc.graph.binding import reject_nan
    from sparsecc.graph.given import in_order

    if path is None:
        latest = compiled.specializations[-1]
        return random_inputs(latest.inputs, limits=latest.limits)
    values = in_order(compiled.inputs, read_npz(path))
    reject_nan(compiled.inputs, values)
    return values


def _names(against: str | None, model: Path | None) -> list[str]:
    from sparsecc.cli import engines

    if model is not None and not model.is_file():
        raise UserError(f"{model}: no such file")
    if against is None:
        names = engines.usable(model) if model else []
        if model is not None and not names:
            raise UserError(f"{model}: no engine that is installed reads it; name engines with --against, or none with --against ''")
        return names
    if model is None:
        raise UserError("--against: an artifact holds no model that another engine could run; name one with --dense")
    return [name.strip() for name in against.split(",") if name.strip()]


def _result(source: Path, compiled: Compiled, timings: dict[str, Timing], threads: int) -> dict[str, Any]:
    from sparsecc.timing import speedup

    ours = timings["sparsecc"]
    return {
        "model": source.name,
        "threads": threads,
        "shapes": {spec.name: list(spec.shape) for spec in compiled.specializations[-1].inputs},
        "target": compiled.target.name,
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "speedup": {name: speedup(ours, timing).to_dict() for name, timing in timings.items() if name != "sparsecc"},
        "report": compiled.report.to_dict(),
    }


def _line(timing: Timing, ours: Timing) -> str:
    spread = timing.spread_ms
    text = f"{timing.name:12} {spread.median:9.3f} ms  ({spread.p10:.3f} to {spread.p90:.3f}, {len(timing.seconds)} rounds)"
    if timing is ours:
        return text
    ratio = statistics.median(b / a for a, b in zip(ours.seconds, timing.seconds, strict=True))
    return f"{text}  sparsecc is {ratio:.2f}x as fast"
