"""Graph → Library: import, recognize layers, emit kernels, schedule the rest, compile."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.chatter import quiet_failure
from sparsecc.codegen.choose import Choice, Chooser
from sparsecc.codegen.cpu.emit.emit import Emitted, emit
from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.cpu.schedules import generic
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.dump import write_kernels
from sparsecc.codegen.importers.base import Imported
from sparsecc.codegen.library import Library
from sparsecc.codegen.recognize.layers import recognize
from sparsecc.codegen.recognize.limits import divisors_of, limits_of, regions_of
from sparsecc.codegen.recognize.program import Program
from sparsecc.codegen.task import Known, Task
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError, UserError
from sparsecc.graph.abilities import HasProto, Specializable
from sparsecc.graph.base import Graph, TensorSpec
from sparsecc.graph.sites import WeightSite

if TYPE_CHECKING:
    import onnx
    from torch import Tensor


_JOINED = 8  # more parameters than this, and a Concat is not fused


@quiet_failure()
def build(
    graph: Graph,
    inputs: Sequence[np.ndarray | Tensor],
    target: Target,
    *,
    measure: bool | None = None,
    known: Mapping[Task, Known] | None = None,
    dump: Path | None = None,
) -> tuple[Library, list[Choice]]:
    """Compile for the shapes of `inputs`. measure: time sparse against dense; by default when the target is this machine.
    known: fastest knobs from the records of a tuner.  dump: a folder for each kernel's TensorIR and assembly.

    Raises ModelError for what the compiler cannot take, naming the operators and where they are.
    """
    measure = target.cpu == detect(target.threads).cpu if measure is None else measure
    arrays = _arrays(graph, inputs)
    chooser = Chooser(target, measure, known or {})
    try:
        return _library(graph, arrays, target, chooser, dump), chooser.choices
    except _UnnamedError as error:
        raise ModelError(_with_place(graph, arrays, target, str(error))) from error


class _UnnamedError(ModelError):
    """Says what the compiler cannot do, and not yet with which operator."""


def _library(graph: Graph, arrays: list[np.ndarray], target: Target, chooser: Chooser, dump: Path | None) -> Library:
    program = _program(_imported(graph, arrays))
    emitted, types = emit(program, target, chooser), [out.ty for out in program.outputs]
    limits, divides, regions = limits_of(program), divisors_of(program), regions_of(program)
    del program  # weights lie there, too
    specs = tuple(TensorSpec(s.name, a.shape, str(a.dtype)) for s, a in zip(graph.inputs, arrays, strict=True))
    outputs = tuple(
        TensorSpec(s.name, tuple(int(d) for d in ty.shape), str(ty.dtype.dtype)) for s, ty in zip(graph.outputs, types, strict=True)
    )
    names = [spec.name for spec in graph.inputs]
    return Library(
        compile_relax(emitted, target, dump),
        emitted.weights,
        specs,
        outputs,
        target,
        limits={name: limit for name, limit in zip(names, limits, strict=True) if limit is not None},
        divisors=frozenset(name for name, is_one in zip(names, divides, strict=True) if is_one),
        regions={name: images for name, images in zip(names, regions, strict=True) if images is not None},
    )


def _with_place(graph: Graph, arrays: list[np.ndarray], target: Target, said: str) -> str:
    """What was said about a model, about the operator of it that does not compile by itself either."""
    if not isinstance(graph, HasProto):
        return f"the compiler cannot generate code for this model: {said}"
    from sparsecc.codegen.importers.onnx.blame import blamed
    from sparsecc.codegen.importers.onnx.importer import import_onnx

    def alone(model: onnx.ModelProto) -> None:
        program = _program(import_onnx(model))
        compile_relax(emit(program, target, Chooser(target, measure=False)), target)

    return f"{graph.where}: the compiler cannot generate code for {blamed(_fixed(graph, arrays), alone) or 'this model'}: {said}"


@quiet_failure()
def choose(graph: Graph, inputs: Sequence[np.ndarray | Tensor], chooser: Chooser) -> None:
    """Let the chooser see every layer, as `build` would, and generate no code."""
    emit(_program(_imported(graph, _arrays(graph, inputs))), chooser.target, chooser)


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
                raise _UnnamedError("a size is known only when it runs")
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


def compile_relax(emitted: Emitted, target: Target, dump: Path | None = None) -> Any:
    """The VM executable of an emitted module.  dump: see `build`. Raises ModelError, without a place, for what TVM or LLVM cannot lower."""
    _register_math()
    try:
        with tvm_api.TvmTarget(target.llvm):
            module = _passes(emitted.module, target)
            if dump is not None:
                write_kernels(module, target, dump)
            return relax.build(module, tvm_api.TvmTarget(target.llvm), relax_pipeline=_lowering())
    except (MemoryError, UserError):
        raise
    except Exception as error:  # TVM raises a dozen kinds, and all of them mean that an operator is used in a way it does not know
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if type(error) is RuntimeError and not lines:
            raise  # a Ctrl-C while TVM called back into Python, which is no operator's fault
        raise _UnnamedError(lines[-1] if lines else type(error).__name__) from error


def _passes(module: Any, target: Target) -> Any:
    t = relax.transform
    for step in (
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        t.LegalizeOps(),
        t.AnnotateTIROpPattern(),
        _alone,
        t.FoldConstant(),
        t.FuseOps(),
        t.FuseTIR(),
        t.DeadCodeElimination(),
    ):
        module = step(module)
    for gvar, func in module.functions.items():
        if isinstance(func, tvm_api.PrimFunc) and not generic.known_elsewhere(func):
            module.update_func(
                gvar, generic.schedule(func.with_attr("global_symbol", "main"), target).with_attr("global_symbol", gvar.name_hint)
            )
    return module


def _alone(module: Any) -> Any:
    """Keep what joins many tensors from being fused with what makes them: the passes of TVM that simplify nested conditions take minutes
    for a Concat of 22 reshapes."""
    for gvar, func in module.functions.items():
        if isinstance(func, tvm_api.PrimFunc) and gvar.name_hint.startswith("concatenate") and len(func.params) > _JOINED:
            module.update_func(gvar, func.with_attr("op_pattern", tvm_api.OPAQUE))
    return module


def _copy_constant_outputs(module: Any) -> Any:
    """return y, const  ->  return y, copy(const): a constant lies in the code, and what callers get is theirs to change."""

    @relax.expr_functor.mutator
    class Copies(relax.PyExprMutator):
        def visit_var_binding_(self, binding: Any) -> None:
            if binding.var.same_as(returned):
                binding = relax.VarBinding(binding.var, relax.Tuple([self.own(field) for field in binding.value.fields]))
            super().visit_var_binding_(binding)

        def own(self, output: Any) -> Any:
            return self.builder_.emit_te(tvm_api.topi.identity, output) if isinstance(output, tvm_api.GenericConst) else output

    main = module["main"]
    returned = main.body.body
    copies = Copies(module)
    copies.builder_.update_func(module.get_global_var("main"), copies.visit_expr(main))
    return copies.builder_.finalize()


def _lowering() -> Any:
    t = relax.transform

    @tvm_api.module_pass(opt_level=0)
    def lower(module: Any, _: Any) -> Any:
        for step in (
            t.RewriteDataflowReshape(),
            _copy_constant_outputs,  # which the step before would take for a reshape, and undo
            t.ToNonDataflow(),
            t.RemovePurityChecking(),
            t.CallTIRRewrite(),
            t.StaticPlanBlockMemory(),
            t.LowerAllocTensor(),
            t.KillAfterLastUse(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            t.AttachGlobalSymbol(),
        ):
            module = step(module)
        return module

    return lower


def _register_math() -> None:
    with _registering:
        _register_math_once()


_registering = threading.Lock()  # TVM takes each rule once, and two threads may be the first to compile


@functools.cache
def _register_math_once() -> None:
    """fp32 exp and its kin become polynomials, so that loops with them vectorize; other types stay with LLVM and libm."""
    for function in (math.exp, math.erf, math.tanh, math.sigmoid, math.sinh, math.cosh):
        kinds = ("llvm.FLowerIntrinsic", "default.FLowerIntrinsic", "default.FLegalize")
        attributes = [tvm_api.Op.get(f"tirx.{function.__name__}").get_attr(kind) for kind in kinds]
        usual = next(attribute for attribute in attributes if attribute is not None)

        def lower(op: Any, function: Any = function, usual: Any = usual) -> Any:
            return function(op.args[0]) if "float32" in str(op.args[0].ty) else usual(op)

        tvm_api.register_intrin_lowering(f"tirx.{function.__name__}", target="llvm", f=lower, level=99)
