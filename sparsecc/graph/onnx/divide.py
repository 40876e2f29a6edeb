"""Division of integers that onnxruntime can run: by -1 it divides the least one as the CPU does, which on x86 ends the process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sparsecc.graph.onnx.fold import constant

_WIDE = (ir.DataType.INT32, ir.DataType.INT64)  # narrower ones are divided as int32, unsigned ones have no -1


def guard_divisions(graph: ir.Graph) -> None:
    """Div(a, b)  ->  Where(b = -1, -a, Div(a, Where(b = -1, 1, b))), unless b is known to be something else; in bodies, too."""
    for node in list(graph):
        if divides(node):
            _guard(graph, node)
        for body in bodies(node):
            guard_divisions(body)


def divides(node: ir.Node) -> bool:
    """Whether a node divides integers by what may be -1."""
    return node.op_type == "Div" and node.domain in ("", "ai.onnx") and _dtype(node) in _WIDE and _may_be_minus_one(node.inputs[1])


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs of an If, Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        if attribute.type is ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _dtype(node: ir.Node) -> ir.DataType | None:
    """Operands and result have one type, which is not known of each value in a body."""
    values = [value for value in (*node.outputs, *node.inputs) if value is not None]
    known = [value.dtype if value.const_value is None else value.const_value.dtype for value in values]
    return next((dtype for dtype in known if dtype is not None), None)


def _may_be_minus_one(divisor: ir.Value | None) -> bool:
    known = constant(divisor)
    return known is None or bool((known == -1).any())


def _guard(graph: ir.Graph, node: ir.Node) -> None:
    a, b = node.inputs
    out, dtype = node.outputs[0], _dtype(node)
    assert dtype is not None
    kind = dtype.numpy()

    def made(op_type: str, inputs: list[ir.Value | None], what: str, attributes: dict[str, ir.TensorProtocol] | None = None) -> ir.Node:
        """Its value has a name that bodies do not give to others of theirs."""
        return ir.node(op_type, inputs, attributes, outputs=[ir.Value(name=f"{out.name}/{what}")])

    one, minus = (made("Constant", [], f"is_{n}", {"value": ir.tensor(np.array(n, kind))}) for n in (1, -1))
    found = made("Equal", [b, minus.outputs[0]], "found")
    safe = made("Where", [found.outputs[0], one.outputs[0], b], "divisor")
    quotient = made("Div", [a, safe.outputs[0]], "quotient")
    negative = made("Neg", [a], "negative")
    result = ir.node("Where", [found.outputs[0], negative.outputs[0], quotient.outputs[0]], num_outputs=1, name=node.name)
    new = [one, minus, found, safe, quotient, negative, result]
    result.outputs[0].shape, result.outputs[0].type = out.shape, out.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [out], result.outputs)
