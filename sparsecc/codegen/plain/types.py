"""Operators for types that LLVM has no instruction for: booleans as uint8, powers and roots of integers as float64."""

from __future__ import annotations

from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.recognize.program import Expr, Node, dtype
from sparsecc.codegen.tvm_api import relax

_COMPARE = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
_CHOOSE = {"maximum", "minimum", "max", "min", "prod", "multiply", "argmax", "argmin"}
_REAL = {"power", "mean", "sqrt", "exp", "log"}  # mean: TVM's divides no integers


def in_another_type(known: Tensors, node: Node) -> Expr | None:
    """None for a node that needs none."""
    tensors = [dtype(arg) for arg in node.args if isinstance(arg.ty, relax.TensorType)]
    if node.what is not None or not tensors:
        return None
    if node.op in _COMPARE | _CHOOSE and set(tensors) == {"bool"}:
        return _computed(known, node, "uint8")
    if node.op in _REAL and all("int" in kind for kind in tensors):
        return _computed(known, node, "float64")
    return None


def _computed(known: Tensors, node: Node, kind: str) -> Expr:
    operands: list[Expr] = [known.op(relax.op.astype(known.natural(arg), kind)) for arg in node.args]
    result, wanted = known.op(relax.Call(node.expr.op, operands, node.expr.attrs)), dtype(node.var)
    return result if dtype(result) == wanted else known.op(relax.op.astype(result, wanted))
