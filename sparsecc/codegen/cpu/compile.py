"""Relax with kernels in it → code: schedule the rest, lower, compile."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

from sparsecc.codegen import tvm_api
from sparsecc.codegen.backend import Emitted, UnnamedError
from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.cpu.schedules import generic
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.dump import write_kernels
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import UserError

_JOINED = 8  # more parameters than this, and a Concat is not fused


def compile_relax(emitted: Emitted, target: Target, dump: Path | None = None) -> Any:
    """The VM's executable of an emitted module.  dump: see `compiler.build`. Raises UnnamedError for what TVM or LLVM cannot lower."""
    _register_math()
    try:
        with tvm_api.TvmTarget(target.llvm):
            module = _passes(emitted.module, target)
            if dump is not None:
                write_kernels(module, target.llvm, dump)
            return relax.build(module, tvm_api.TvmTarget(target.llvm), relax_pipeline=_lowering())
    except (MemoryError, UserError):
        raise
    except Exception as error:  # TVM raises a dozen kinds, and all of them mean that an operator is used in a way it does not know
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if type(error) is RuntimeError and not lines:
            raise  # a Ctrl-C while TVM called back into Python, which is no operator's fault
        raise UnnamedError(lines[-1] if lines else type(error).__name__) from error


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
