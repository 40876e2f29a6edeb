"""One model, in this process: run as it is, compiled, compared, counted, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

import sparsecc
from benchmarks.coverage.architectures import architectures
from benchmarks.coverage.compare import arrays, difference
from benchmarks.coverage.onnx_files import OnnxFile, inputs, onnx_files
from benchmarks.coverage.row import TOLERANCE, TOLERANCE_ROUNDED, Row
from benchmarks.coverage.weights import covered, of_module, of_onnx
from sparsecc.cli.engines import onnxruntime_call
from sparsecc.errors import UserError
from sparsecc.timing import interleave, speedup

if TYPE_CHECKING:
    import onnx

    from benchmarks.coverage.architectures import Architecture
    from sparsecc.runtime.compiled import Compiled

DRAWS = (0, 1)  # seeds of inputs; the second was not there when the model was compiled
Call = Callable[[], Any]
Note = Callable[[Row], None]


@dataclass(frozen=True)
class Subject:
    """A model in the ways that it is needed here. Draws are numbers of `DRAWS`.

    reference: the host's answer to a draw.  compiles: the model for its first draw.  call: a compiled model on a draw.
    baseline: what to time against.  weights: see `weights`.  folder: of the file, left out of messages.
    """

    name: str
    source: str
    reference: Callable[[int], list[np.ndarray]]
    compiles: Callable[[], Compiled]
    call: Callable[[Compiled, int], Any]
    baseline: Callable[[], Call]
    weights: Callable[[], Mapping[str, int]]
    tolerance: float = TOLERANCE
    folder: str = ""


def names() -> dict[str, str]:
    """Every model's name → where it is from."""
    return {name: name.split("/")[0] for name in architectures()} | {name: file.package for name, file in onnx_files().items()}


def subject(name: str, threads: int) -> Subject:
    return of_file(onnx_files()[name], threads) if name.startswith("onnx/") else of_architecture(architectures()[name], threads)


def measured(subject: Subject, note: Note, seconds: float) -> Row:
    """The row; `note` gets what is known of it whenever that becomes more, in case this process does not live to the end.

    seconds: of timing; 0 leaves it out.
    """
    row = Row(subject.name, subject.source, "no reference")
    note(row)
    expected = [subject.reference(draw) for draw in DRAWS]
    again, _ = difference(subject.reference(0), expected[0])
    if not again <= TOLERANCE:
        return replace(row, message="two runs on the same inputs differ")
    weights = subject.weights()
    row = replace(row, status="traceback", phase="compile", layers=len(weights), weights=sum(weights.values()))
    note(row)
    start = time.perf_counter()
    try:
        compiled = subject.compiles()
    except UserError as error:
        message = f"{type(error).__name__}: {error}".replace(f"{subject.folder}/", "")
        return replace(row, status="refused", message=message, compile_seconds=time.perf_counter() - start)
    row = replace(row, phase="run", compile_seconds=time.perf_counter() - start, **_sites(compiled, list(weights.values())))
    note(row)
    try:
        errors = [difference(arrays(subject.call(compiled, draw)), expected[draw]) for draw in DRAWS]
    except UserError as error:
        return replace(row, status="refused", message=f"{type(error).__name__} when called: {error}")
    worst, why = max(errors, key=lambda found: found[0])
    status = "right" if worst <= subject.tolerance else "wrong"
    row = replace(row, status=status, max_rel=worst if np.isfinite(worst) else None, message=why)
    if not seconds:
        return replace(row, phase="done")
    note(replace(row, phase="speed"))
    return replace(row, phase="done", **_speed(subject, compiled, seconds))


def _sites(compiled: Compiled, weights: list[int]) -> dict[str, int]:
    """What the report knows of the model's weights."""
    rows = [site for site in compiled.report.sites if site.bytes_dense is not None and site.kind not in ("Embedding", "Gather")]
    # what is skipped without a pass's refusal is what no pass looks at
    sites = [site for site in rows if site.kind in _kinds() and (site.decision != "skipped" or site.refused)]
    seen, named = ([int(np.prod(site.shape)) for site in found] for found in (sites, rows))
    return {"sites": len(sites), "seen": covered(weights, seen), "named": covered(weights, named)}


@cache
def _kinds() -> frozenset[str]:
    """Of sites that passes work on."""
    from sparsecc.graph.sites import WeightSite

    found, new = {WeightSite}, [WeightSite]
    while new:
        new = [kind for old in new for kind in old.__subclasses__()]
        found.update(new)
    return frozenset(kind.__name__ for kind in found)


def _speed(subject: Subject, compiled: Compiled, seconds: float) -> dict[str, float]:
    calls = {"sparsecc": partial(subject.call, compiled, 0), "baseline": subject.baseline()}
    timings = interleave(calls, seconds=seconds)
    return {"ms": timings["sparsecc"].spread_ms.median, "times": speedup(timings["sparsecc"], over=timings["baseline"]).median}


def of_architecture(architecture: Architecture, threads: int) -> Subject:
    import torch

    from sparsecc.graph.given import tensors_in

    torch.set_num_threads(threads)
    module = architecture.module()
    examples = {draw: architecture.example(draw) for draw in DRAWS}

    def run(draw: int) -> Any:
        example = examples[draw]
        with torch.no_grad():  # some modules keep tensors of a call, which may not come from inference mode when they are traced
            return module(**example) if isinstance(example, dict) else module(*example)

    def call(compiled: Compiled, draw: int) -> Any:
        example = examples[draw]
        if isinstance(example, dict) and all(isinstance(value, torch.Tensor) for value in example.values()):
            return compiled(**example)
        return compiled(*tensors_in(tuple(example.values()) if isinstance(example, dict) else example))

    return Subject(
        architecture.name,
        architecture.name.split("/")[0],
        reference=lambda draw: arrays(run(draw)),
        compiles=lambda: sparsecc.compile(module, examples[0], threads=threads),
        call=call,
        baseline=lambda: partial(run, 0),
        weights=lambda: of_module(module, partial(run, 0)),
    )


def of_file(file: OnnxFile, threads: int) -> Subject:
    import onnx

    path = file.path()
    model = onnx.load(path)
    examples = {draw: inputs(model, file.given, draw) for draw in DRAWS}
    rounded = _rounds(model.graph)
    exact = _reference(path, threads, rounded)
    shapes = {name: value.shape for name, value in examples[0].items()}
    return Subject(
        file.name,
        file.package,
        reference=lambda draw: arrays(exact(examples[draw])),
        compiles=lambda: sparsecc.compile(path, threads=threads, input_shapes=shapes),
        call=lambda compiled, draw: compiled(*examples[draw].values()),
        baseline=lambda: onnxruntime_call(path, examples[0], threads),
        weights=lambda: of_onnx(model),
        tolerance=TOLERANCE_ROUNDED if rounded else TOLERANCE,
        folder=str(path.parent),
    )


def _rounds(graph: onnx.GraphProto) -> bool:
    """Whether activations are rounded to integers somewhere. Then onnxruntime's usual rewriting moves them, and is no reference."""
    return any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or node.op_type.startswith("Dynamic") for node in graph.node)


def _reference(path: Any, threads: int, rounded: bool) -> Callable[[Mapping[str, np.ndarray]], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if rounded:
        # Products of bytes saturate on CPUs without VNNI unless told otherwise, which counts from this level on.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed))
