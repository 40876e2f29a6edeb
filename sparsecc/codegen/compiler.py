"""Graph → Library: import, recognize layers, and let the target's backend compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.codegen.backend import UnnamedError, whole
from sparsecc.codegen.chatter import quiet_failure
from sparsecc.codegen.choose import Choice, Chooser
from sparsecc.codegen.importers.base import Imported
from sparsecc.codegen.library import Library
from sparsecc.codegen.recognize.layers import recognize
from sparsecc.codegen.recognize.limits import divisors_of, limits_of, regions_of
from sparsecc.codegen.recognize.names import name_layers
from sparsecc.codegen.recognize.program import Program
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Known, Task
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError
from sparsecc.graph.abilities import HasProto, Specializable
from sparsecc.graph.base import Graph, TensorSpec
from sparsecc.graph.sites import WeightSite

if TYPE_CHECKING:
    import onnx
    from torch import Tensor


@quiet_failure()
def build(
    graph: Graph,
    inputs: Sequence[np.ndarray | Tensor],
    target: Target,
    *,
    measure: bool | None = None,
    known: Mapping[Task, Known] | None = None,
    dump: Path | None = None,
    chooser: Chooser | None = None,
) -> tuple[Library, list[Choice]]:
    """Compile for the shapes of `inputs`. measure: time sparse against dense; by default when the target is this machine.
    known: fastest knobs from the records of a tuner.  dump: a folder for each kernel's TensorIR and assembly.
    chooser: in the place of one from `measure` and `known`; it has chosen for other variants of the model before, and times again only
    what is new.

    Raises ModelError for what the compiler cannot take, naming the operators and where they are.
    """
    measure = target.is_here if measure is None else measure
    arrays = _arrays(graph, inputs)
    if chooser is None:
        chooser = Chooser(target, measure, known or {})
    chooser.choices = []
    try:
        return _library(graph, arrays, target, chooser, dump), chooser.choices
    except UnnamedError as error:
        raise ModelError(_with_place(graph, arrays, target, str(error))) from error


def _library(graph: Graph, arrays: list[np.ndarray], target: Target, chooser: Chooser, dump: Path | None) -> Library:
    program = _program(_imported(graph, arrays))
    name_layers(program, graph)
    backend = whole(target)
    emitted, types = backend.emit(program, chooser), [out.ty for out in program.outputs]
    limits, divides, regions = limits_of(program), divisors_of(program), regions_of(program)
    del program  # weights lie there, too
    specs = tuple(TensorSpec(s.name, a.shape, str(a.dtype)) for s, a in zip(graph.inputs, arrays, strict=True))
    outputs = tuple(
        TensorSpec(s.name, tuple(int(d) for d in ty.shape), str(ty.dtype.dtype)) for s, ty in zip(graph.outputs, types, strict=True)
    )
    names = [spec.name for spec in graph.inputs]
    return Library(
        backend.compile(emitted, target, dump),
        emitted.weights,
        specs,
        outputs,
        target,
        limits={name: limit for name, limit in zip(names, limits, strict=True) if limit is not None},
        divisors=frozenset(name for name, is_one in zip(names, divides, strict=True) if is_one),
        regions={name: images for name, images in zip(names, regions, strict=True) if images is not None},
        calls=emitted.calls,
    )


def _with_place(graph: Graph, arrays: list[np.ndarray], target: Target, said: str) -> str:
    """What was said about a model, about the operator of it that does not compile by itself either."""
    if not isinstance(graph, HasProto):
        return f"the compiler cannot generate code for this model: {said}"
    from sparsecc.codegen.importers.onnx.blame import blamed
    from sparsecc.codegen.importers.onnx.importer import import_onnx

    def alone(model: onnx.ModelProto) -> None:
        backend = whole(target)
        backend.compile(backend.emit(_program(import_onnx(model)), Chooser(target, measure=False)), target)

    return f"{graph.where}: the compiler cannot generate code for {blamed(_fixed(graph, arrays), alone) or 'this model'}: {said}"


@quiet_failure()
def choose(graph: Graph, inputs: Sequence[np.ndarray | Tensor], chooser: Chooser) -> None:
    """Let the chooser see every layer, as `build` would, and generate no code."""
    whole(chooser.target).emit(_program(_imported(graph, _arrays(graph, inputs))), chooser)


def _arrays(graph: Graph, inputs: Sequence[np.ndarray | Tensor]) -> list[np.ndarray]:
    """The inputs for numpy. Raises ModelError for a model in another float type than is compiled."""
    for site in graph.sites(WeightSite):
        _require(f"layer '{site.name}'", site.dtype)
    for spec in graph.inputs:
        _require(f"input '{spec.name}'", spec.dtype)
    return [np.asarray(x) for x in inputs]


def _require(what: str, dtype: str) -> None:
    if "float" in dtype and dtype != "float32":
        raise ModelError(f"{what} is {dtype}; this version compiles float32: convert the model, in torch by model.float()")


def _program(imported: Imported) -> Program:
    """Raises ModelError when a size in it is not fixed."""
    for block in imported.module["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.var.ty, relax.TensorType) and not _is_fixed(binding.var.ty):
                raise UnnamedError("a size is known only when it runs")
    program = Program.of(imported)
    recognize(program)
    return program


def _is_fixed(ty: Any) -> bool:
    return ty.shape is not None and all(hasattr(size, "value") for size in ty.shape)


def _imported(graph: Graph, arrays: list[np.ndarray]) -> Imported:
    """Raises ModelError for a graph that no importer takes."""
    if isinstance(graph, Specializable):
        import torch

        from sparsecc.codegen.importers.fx.importer import import_whole

        return import_whole(lambda: graph.specialize([torch.from_numpy(a) for a in arrays]))
    if not isinstance(graph, HasProto):
        raise ModelError(f"{graph.where}: the compiler has no importer for graphs of host {graph.host!r}")
    from sparsecc.codegen.importers.onnx.importer import import_onnx

    return import_onnx(_fixed(graph, arrays), graph.where)


def _fixed(graph: HasProto, arrays: list[np.ndarray]) -> onnx.ModelProto:
    shapes = {spec.name: array.shape for spec, array in zip(graph.inputs, arrays, strict=True)}
    return graph.fixed(shapes).proto()
