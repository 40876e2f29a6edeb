"""sparsecc run"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecc.cli.common import InputsOption, JsonOption, ShapesOption, input_shapes, writable, write_json
from sparsecc.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from sparsecc.graph.base import TensorSpec


def run(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An artifact; or an ONNX or .pt2 file, which runs in onnxruntime or torch.")
    ],
    inputs: InputsOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the outputs here: .npz, one array per output.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="For an artifact. Left out: as many as it was compiled for.")
    ] = None,
    input_shape: ShapesOption = None,
    json: JsonOption = None,
) -> None:
    """Run a model once, and write or summarize its outputs."""
    writable(output, source, inputs)
    writable(json, source, inputs, output)
    results = _run(source, inputs, threads, input_shapes(input_shape))
    if output is not None:
        _write(output, results)
    summary = {name: _summary(array) for name, array in results.items()}
    write_json(json, {"outputs": summary})
    for name, entry in summary.items():
        print(f"{name}  {entry['dtype']} {tuple(entry['shape'])}  min {entry['min']:.6g}  mean {entry['mean']:.6g}  max {entry['max']:.6g}")


def _run(source: Path, inputs: Path | None, threads: int | None, shapes: Any) -> dict[str, np.ndarray]:
    import numpy as np

    if source.suffix == ".sparsecc":
        import sparsecc
        from sparsecc.api import on_cpu

        if shapes:
            raise UserError(f"{source}: is compiled already, so that --input-shape comes too late")
        compiled = on_cpu(sparsecc.load(source, threads), str(source))
        first, outputs = compiled.specializations[0], compiled.outputs
        values = _inputs(compiled.inputs, inputs, first.inputs, first.limits)
        return dict(zip([spec.name for spec in outputs], compiled.flat(values), strict=True))
    if threads:
        raise UserError(f"{source}: --threads is for artifacts; compile the model first")
    from sparsecc.api.sources import open_graph

    graph = open_graph(source, input_shapes=shapes)
    results = graph.run(_inputs(graph.inputs, inputs, graph.inputs)).outputs
    return {spec.name: np.asarray(result) for spec, result in zip(graph.outputs, results, strict=True)}


def _inputs(
    specs: Sequence[TensorSpec], path: Path | None, shaped: Sequence[TensorSpec], limits: Mapping[str, tuple[int, int]] | None = None
) -> list[Any]:
    """shaped: the specs to make inputs for when there is no file.  limits: see `codegen.library`."""
    from sparsecc.api.sources import random_inputs
    from sparsecc.calibration.npz import read_npz
    from sparsecc.graph.binding import reject_nan
    from sparsecc.graph.given import in_order

    if path is None:
        return random_inputs(shaped, limits=limits)
    values = in_order(specs, read_npz(path))
    reject_nan(specs, values)
    return values


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import numpy as np

    from sparsecc.files import replacing

    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _summary(array: np.ndarray) -> dict[str, Any]:
    empty = not array.size
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        **{name: 0.0 if empty else float(getattr(array, name)()) for name in ("min", "mean", "max")},
    }
