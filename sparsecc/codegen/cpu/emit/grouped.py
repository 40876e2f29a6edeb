"""Emits products with one matrix of several for each row as calls of their kernel."""

from __future__ import annotations

from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Value
from sparsecc.codegen.cpu.operators import grouped_matmul
from sparsecc.codegen.cpu.operators.grouped_matmul import GroupedSpec
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Node, shape


def emit_grouped(forms: Forms, target: Target, node: Node) -> Value | None:
    """None for any other node."""
    found = forms.program.placeholders.get(node.op)
    if found is None or found.kind != "grouped_matmul":
        return None
    x, weight, expert = (forms.natural(arg) for arg in node.args)
    experts, depth, cols = shape(node.args[1])
    spec = GroupedSpec(shape(node.args[0])[0], depth, cols, experts)
    kernel = forms.kernel((spec, target.lanes), lambda: grouped_matmul.build(spec, target))
    return Value(shape(node.var), natural=forms.call(kernel, [x, weight, expert], shape(node.var)))
