"""Operators as Relax has them, for whatever a backend has no kernel of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sparsecc.codegen.plain.guards import guarded_division, guarded_operands
from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.plain.types import in_another_type
from sparsecc.codegen.recognize.program import Expr, Node, dtype, shape
from sparsecc.codegen.tvm_api import relax


def _hardsigmoid(tensors: Tensors, x: Expr) -> Expr:
    gate = tensors.op(relax.op.clip(tensors.op(relax.op.add(x, relax.const(3.0, "float32"))), 0, 6))
    return tensors.op(relax.op.multiply(gate, relax.const(1 / 6, "float32")))


ACTIVATIONS: dict[str, Callable[[Tensors, Expr], Expr]] = {  # activations that recognizers have put together and no layer took in
    "gelu": lambda tensors, x: tensors.op(relax.op.nn.gelu(x)),
    "silu": lambda tensors, x: tensors.op(relax.op.nn.silu(x)),
    "relu6": lambda tensors, x: tensors.op(relax.op.clip(x, 0, 6)),
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda tensors, x: tensors.op(relax.op.multiply(x, _hardsigmoid(tensors, x))),
}


def spelled_out(tensors: Tensors, node: Node) -> Expr | None:
    """An operator that TVM's own form computes wrongly, or not at all, by others; None for one that may stay as it is."""
    guarded = guarded_division(tensors, node)
    return guarded if guarded is not None else in_another_type(tensors, node)


def as_it_was(tensors: Tensors, node: Node, functions: dict[Any, Any]) -> Expr:
    """The same operator on natural operands."""
    expr = node.expr
    if node.op == "tuple":
        return tensors.op(relax.Tuple([tensors.natural(arg) for arg in node.args]))
    if node.op == "getitem":
        return tensors.op(relax.TupleGetItem(tensors.natural(node.args[0]), expr.index))
    if node.op == "alias":
        return tensors.natural(node.args[0])
    if node.op == "take":
        x, index = (tensors.natural(arg) for arg in node.args)
        return tensors.op(relax.op.take(x, index, axis=expr.attrs.axis, mode="wrap"))
    if node.op in ("full", "full_like"):  # TVM's own form of them takes no infinity
        fill = tensors.op(relax.op.astype(tensors.natural(node.args[1]), dtype(node.var)))
        return tensors.op(relax.op.broadcast_to(fill, shape(node.var)))
    leaves = iter(guarded_operands(tensors, node))
    args = [_rebuilt(tensors, arg, leaves, functions) for arg in expr.args]
    types = list(expr.ty_args) if hasattr(expr, "ty_args") else list(expr.sinfo_args)
    return tensors.op(relax.Call(expr.op, args, expr.attrs, types))


def _rebuilt(tensors: Tensors, arg: Expr, leaves: Iterator[Expr], functions: dict[Any, Any]) -> Expr:
    if isinstance(arg, relax.Tuple):
        return relax.Tuple([_rebuilt(tensors, field, leaves, functions) for field in arg.fields])
    leaf = next(leaves)
    if not isinstance(leaf, relax.GlobalVar):
        return leaf
    if leaf not in functions:  # a PrimFunc that the importer has made, added once
        functions[leaf] = tensors.builder.add_func(tensors.program.functions[leaf], leaf.name_hint)
    return functions[leaf]
