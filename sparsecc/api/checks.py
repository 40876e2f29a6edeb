"""Whether a model that was rewritten still computes what its file says: run in onnxruntime, before anyone relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sparsecc.api import compare
from sparsecc.errors import ModelError
from sparsecc.report.base import ORIGINAL, Report

if TYPE_CHECKING:
    from sparsecc.api.rewriting import Rewritten

GREW = 2**16  # bytes; below that it is names and functions
_NAMED = 3  # nodes that a sentence names


def converted(report: Report, result: Rewritten, input_shapes: Any, check: int | None) -> Report:
    """The report of a model for a stock onnxruntime, with everything that is checked of it. input_shapes, check: as for `convert_graph`."""
    count = check if check is not None else int(result.example is not None)
    report = replace(report, measured=result.measured(max(1, count)))
    report = opened(report, result, input_shapes)
    sets = list(result.samples(count))
    report = against_masked(against_file(report, result, sets), result, sets)
    return with_saturation(with_growth(report, result), result)


def against_file(report: Report, result: Rewritten, samples: Sequence[Sequence[Any]]) -> Report:
    """The report with the model before the passes compared to the file, module or program as it came."""
    before: Any = result.original or result.graph
    if before.random:
        note = f"outputs were not compared: {before.random} gives other numbers each time"
        return replace(report, notes=(*report.notes, note))
    ours = [before.run(sample).outputs for sample in samples]
    for outputs, expected in zip(ours, before.as_it_came(samples) if samples else (), strict=True):
        report = compare.checked(report, outputs, expected, ORIGINAL)
    return report


def against_masked(report: Report, result: Rewritten, samples: Sequence[Sequence[Any]]) -> Report:
    """The report with the converted model compared to the masked one, both run exactly; where layers were quantized, also as an
    onnxruntime without options runs them on this machine: that is what users get."""
    graph: Any = result.graph
    masked: Any = result.masked
    for sample in samples if not graph.random else ():
        report = compare.checked(report, graph.run(sample).outputs, masked.run(sample).outputs)
        if any(site.quantized for site in report.sites):
            report = compare.checked(report, graph.stock(sample), masked.stock(sample))
    return report


def opened(report: Report, result: Rewritten, input_shapes: Any) -> Report:
    """The report, once an onnxruntime has loaded the result. Raises ModelError when none could.

    Where it is this machine that lacks a kernel, for the file as it came too, the report says that nothing was loaded.
    """
    graph: Any = result.graph
    try:
        graph.require_opens()
    except ModelError as error:
        if "NOT_IMPLEMENTED" in str(error) and not graph.came_opens():
            note = "not loaded: the onnxruntime of this machine lacks an operator of the model, also in the file as it came"
            return replace(report, notes=(*report.notes, note))
        shapes = f"; input_shapes {dict(input_shapes)} may not fit all of the model" if input_shapes else ""
        raise ModelError(f"converted, the model would not load{shapes}: {error}") from None
    return report


def with_growth(report: Report, result: Rewritten) -> Report:
    """The report, which says so when the file became larger than it was."""
    from sparsecc.graph.onnx.values import stored  # here, because it imports torch, which loading an artifact does without

    graph: Any = result.graph
    came, now = stored(graph.came), stored(graph.model)
    if now <= came + GREW:
        return report
    note = f"the file's weights grew from {came / 1e6:.2f} to {now / 1e6:.2f} MB: they were stored in fewer bytes than stand there now"
    return replace(report, notes=(*report.notes, note))


def with_saturation(report: Report, result: Rewritten) -> Report:
    """The report, which names integer products that an x86 CPU without VNNI may get wrong; by their types, whatever CPU this is."""
    from sparsecc.graph.onnx.saturation import saturating  # here, because it imports onnx, which loading an artifact does without

    graph: Any = result.graph
    names = [f"'{node.name or node.outputs[0].name}'" for node in saturating(graph.model)]
    if not names:
        return report
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    what = "weights of 8 bits times unsigned inputs saturate in onnxruntime on x86 CPUs without VNNI"
    note = f"{what}, so that results may be off there: {', '.join(names[:_NAMED])}{more}; they came so"
    return replace(report, notes=(*report.notes, note))
