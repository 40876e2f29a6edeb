"""Operators for types that LLVM has no instruction for: booleans as uint8, powers and roots of integers as float64."""

from __future__ import annotations

from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Value
from sparsecc.codegen.recognize.program import Expr, Node, dtype, shape
from sparsecc.codegen.tvm_api import relax

_COMPARE = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
_CHOOSE = {"maximum", "minimum", "max", "min", "prod", "multiply", "argmax", "argmin"}
_REAL = {"power", "mean", "sqrt", "exp", "log"}  # mean: TVM's divides no integers


def in_another_type(forms: Forms, node: Node) -> Value | None:
    """None for a node that needs none."""
    tensors = [dtype(arg) for arg in node.args if isinstance(arg.ty, relax.TensorType)]
    if node.what is not None or not tensors:
        return None
    if node.op in _COMPARE | _CHOOSE and set(tensors) == {"bool"}:
        return _computed(forms, node, "uint8")
    if node.op in _REAL and all("int" in kind for kind in tensors):
        return _computed(forms, node, "float64")
    return None


def _computed(forms: Forms, node: Node, kind: str) -> Value:
    operands: list[Expr] = [forms.op(relax.op.astype(forms.natural(arg), kind)) for arg in node.args]
    result, wanted = forms.op(relax.Call(node.expr.op, operands, node.expr.attrs)), dtype(node.var)
    return Value(shape(node.var), natural=result if dtype(result) == wanted else forms.op(relax.op.astype(result, wanted)))
