"""sparsecc inspect"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecc.cli.common import (
    CalibrationOption,
    JsonOption,
    ShapesOption,
    ThreadsOption,
    input_shapes,
    require_right,
    say,
    working,
    writable,
    write_json,
)
from sparsecc.errors import InputError

if TYPE_CHECKING:
    from sparsecc.graph.base import Graph


def inspect(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="An ONNX file.")],
    calib: CalibrationOption = None,
    input_shape: ShapesOption = None,
    threads: ThreadsOption = None,
    measure: Annotated[bool, typer.Option(help="Compile the model, to time what its zeros gain on this machine.")] = True,
    json: JsonOption = None,
) -> None:
    """Which patterns a model's zeros satisfy, and what that gains here; with --calib also how dense the activations are, and what rank
    the weights have."""
    from sparsecc.api.sources import open_graph

    writable(json, source, calib)
    shapes = input_shapes(input_shape)
    graph = open_graph(source, input_shapes=shapes)
    rows = list(_rows(graph))
    if calib is not None:
        _add_analyses(rows, graph, calib)
    if measure and any(row["patterns"] for row in rows):
        try:
            _add_times(rows, source, shapes, threads)
        except InputError as error:
            raise InputError(f"{error}; or leave out the times, with --no-measure") from None
    write_json(json, {"model": source.name, "sites": rows})
    for row in rows:
        print(_line(row))
    if not any(row["patterns"] for row in rows):
        say("no layer has zeros that a sparse format would store in fewer bytes; prune it with a recipe")


def _rows(graph: Graph) -> Iterator[dict[str, Any]]:
    from sparsecc import formats
    from sparsecc.graph.sites import WeightSite

    for site in graph.sites(WeightSite):
        keep = site.matrix != 0
        itemsize = site.weight.element_size()
        bytes_dense = keep.numel() * itemsize
        found = [fit for fit in formats.fits(keep, itemsize=itemsize) if fit.bytes_packed < bytes_dense]
        yield {
            "name": site.name,
            "kind": site.kind,
            "shape": list(site.shape),
            "sparsity": 1 - int(keep.count_nonzero()) / max(1, keep.numel()),
            "bytes_dense": bytes_dense,
            "patterns": [{"pattern": str(fit.format.pattern), "format": fit.format.key, "bytes": fit.bytes_packed} for fit in found],
        }


def _add_analyses(rows: list[dict[str, Any]], graph: Graph, calib: Path) -> None:
    """activations: see `analyses.densities`.  ranks: see `analyses.ranks`. None for a weight or an input that has none."""
    from sparsecc.api.analyses import densities, ranks
    from sparsecc.api.calibration import samples_of
    from sparsecc.graph.sites import WeightSite

    samples = samples_of(calib, graph.inputs)
    assert samples is not None
    with working("looking at activations and weights"):
        found = dict(densities(graph, samples))
        spectra = {site.name: ranks(site.matrix) for site in graph.sites(WeightSite)}
    for row in rows:
        row |= {"activations": found.get(row["name"]), "ranks": spectra[row["name"]] or None}


def _add_times(rows: list[dict[str, Any]], source: Path, shapes: Any, threads: int | None) -> None:
    import sparsecc

    with working(f"compiling {source.name}"):
        report = sparsecc.compile(source, threads=threads, input_shapes=shapes).report
    require_right(report)
    measured = {site.name: site for site in report.sites}
    for row in rows:
        site = measured.get(row["name"])
        if site is not None:
            row |= {"measured_us": site.measured_us, "dense_us": site.dense_us, "decision": site.decision, "reason": site.reason}


def _line(row: dict[str, Any]) -> str:
    from sparsecc.report.table import printable

    shape = "×".join(map(str, row["shape"]))
    text = f"{printable(row['name'])}  {row['kind']} {shape}  zeros {row['sparsity']:.0%}  {_patterns(row)}"
    if row.get("activations") and row["activations"]["nonzero"] is not None:
        dense = row["activations"]
        text += f"  inputs {dense['nonzero']:.0%} nonzero, {dense['above_small']:.0%} above 1 % of the largest"
    if row.get("ranks"):
        text += "  rank " + ", ".join(f"{part:.0%} holds {float(share):.0%}" for share, part in row["ranks"].items())
    if row.get("measured_us") and row.get("dense_us"):
        text += f"  sparse {row['measured_us']:.1f} µs, dense {row['dense_us']:.1f} µs ({row['dense_us'] / row['measured_us']:.2f}x)"
    return text


def _patterns(row: dict[str, Any]) -> str:
    """The cheapest of each format; --json has them all."""
    best: dict[str, dict[str, Any]] = {}
    for entry in row["patterns"]:  # cheapest first
        best.setdefault(entry["format"].split(":")[0], entry)
    if not best:
        return "no pattern that saves bytes"
    shown = [f"{entry['pattern']} ({entry['bytes'] / row['bytes_dense']:.0%} of the bytes)" for entry in best.values()]
    return ", ".join(shown) + (f" and {len(row['patterns']) - len(best)} more" if len(row["patterns"]) > len(best) else "")
