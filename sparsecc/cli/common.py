"""What commands share: their options' types, parsing, output."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecc.cli.ranks import leads
from sparsecc.cli.streams import say as say  # with what else commands share
from sparsecc.errors import SparseccError, UserError

if TYPE_CHECKING:
    from sparsecc.calibration.context import Progress
    from sparsecc.recipe import Recipe
    from sparsecc.report.base import Report

RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="FILE|LINE",
        help="Recipe in YAML, or a line as 'prune{pattern=4x1,sparsity=0.5} pack'. Left out: pack the zeros that are there.",
    ),
]
PrintAfterOption = Annotated[
    list[str] | None,
    typer.Option("--print-after", metavar="PASS", help="Print the graph after this pass. Repeat for more."),
]
DumpOption = Annotated[
    Path | None, typer.Option("--dump", metavar="DIR", help="A new folder: the graph after each pass, each kernel's TensorIR and assembly.")
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Check the graph and its outputs after each pass.")]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calib", metavar="FILE", help="Calibration inputs: .npz, one array per input, samples on the first axis.")
]
ShapesOption = Annotated[
    list[str] | None, typer.Option("--input-shape", metavar="NAME:SIZES", help="Shape of an input, as image:1,3,224,224. Repeat for each.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="Left out: one per physical core.")]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target", metavar="TARGET", help="cpu is this one, cuda the GPU here; or others, as cpu:skylake-avx512, cuda:sm_90a,sm_80."
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here, as JSON.")]
InputsOption = Annotated[
    Path | None, typer.Option("--inputs", metavar="FILE", help="Inputs: .npz, one array per input. Left out: made from the shapes.")
]


def watching(recipe: Recipe, print_after: Sequence[str] | None, dump: Path | None, verify: bool) -> dict[str, Any]:
    """Of `api.compile` and `api.convert_graph`. Raises UserError for a pass that the recipe does not have."""
    from sparsecc.api.watching import printer

    if not leads():
        return {"hooks": [], "dump": None, "verify": None}
    hooks = [printer(print_after, recipe, print)] if print_after else []
    return {"hooks": hooks, "dump": dump, "verify": print if verify else None}


def input_shapes(options: Sequence[str] | None) -> dict[str, tuple[int, ...]] | None:
    """['x:1,3,224,224'] -> {'x': (1, 3, 224, 224)}. Raises UserError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for option in options or ():
        name, _, sizes = option.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.replace("x", ",").split(",")) if sizes else ()
        except ValueError:
            shape = (0,)
        if not name or any(size < 1 for size in shape):
            raise UserError(f"--input-shape {option!r}: expected name:1,3,224,224")
        if name in shapes:
            raise UserError(f"--input-shape: {name!r} given twice")
        shapes[name] = shape
    return shapes or None


def writable(path: Path | None, *named: Path | str | None) -> None:
    """Fail before the long work and not after it. named: what the command reads or writes besides, which `path` must not replace."""
    if path is None or not leads():
        return
    from sparsecc.files import naming

    others = [Path(other) for other in named if other is not None]

    with naming(path) as target:
        if not target.parent.is_dir():
            raise UserError(f"{path}: there is no folder {target.parent if path.is_symlink() else path.parent}")
        if any(_same(target, other) for other in others):
            raise UserError(f"{path}: is named twice, and would be overwritten; write to another file")
        for model in others if target.exists() else ():
            if model.suffix == ".onnx" and any(_same(target, held) for held in _data_of(model)):
                raise UserError(f"{path}: holds weights of {model}, and would be overwritten; write to another file")
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def _data_of(model: Path) -> Iterable[Path]:
    from sparsecc.graph.onnx.external import files_of

    return files_of(model)


def _same(target: Path, other: Path) -> bool:
    return target == Path(os.path.realpath(other)) or (target.exists() and other.exists() and target.samefile(other))


def write_json(path: Path | None, value: Mapping[str, Any]) -> None:
    """Write the result of --json, when it was asked for."""
    if path is not None and leads():
        from sparsecc.files import json_text, write_text

        write_text(path, json_text(value))


def require_right(report: Report) -> None:
    """Raises SparseccError when the check of the outputs is off."""
    from sparsecc.api import differs, gpu, tolerance

    on_gpu = report.target.startswith("cuda")
    check, allowed = report.check, gpu.tolerance(report) if on_gpu else tolerance(report)
    if check is None or not differs(check, allowed):
        return
    if check.reason:
        raise SparseccError(f"outputs are not those of the {check.against}: {check.reason}")
    raise SparseccError(
        f"outputs differ from those of the {check.against} by {check.max_rel:.2g} of the largest one, more than {allowed:g}"
    )


@contextmanager
def working(what: str) -> Iterator[Callable[[Progress], None] | None]:
    """Shows that something is being done, on a terminal only. Gives what passes that take long are to call."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(what) as status:
        yield lambda now: status.update(f"{what}: {now.what} {now.done}/{now.total} {escape(now.note)}")
