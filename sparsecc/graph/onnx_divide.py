"""Division of integers that onnxruntime can run: by -1 it divides the least one as the CPU does, which on x86 ends the process."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.graph.onnx_fold import constant

_WIDE = (ir.DataType.INT32, ir.DataType.INT64)  # narrower ones are divided as int32, unsigned ones have no -1


def guard_divisions(graph: ir.Graph) -> None:
    """Div(a, b)  ->  Where(b = -1, -a, Div(a, Where(b = -1, 1, b))), unless b is known to be something else."""
    for node in list(graph):
        integers = node.op_type == "Div" and node.domain in ("", "ai.onnx") and node.outputs[0].dtype in _WIDE
        if integers and _may_be_minus_one(node.inputs[1]):
            _guard(graph, node)


def _may_be_minus_one(divisor: ir.Value | None) -> bool:
    known = constant(divisor)
    return known is None or bool((known == -1).any())


def _guard(graph: ir.Graph, node: ir.Node) -> None:
    a, b = node.inputs
    out = node.outputs[0]
    assert out.dtype is not None
    kind = out.dtype.numpy()
    one, minus = (ir.node("Constant", [], {"value": ir.tensor(np.array(n, kind))}, num_outputs=1) for n in (1, -1))
    found = ir.node("Equal", [b, minus.outputs[0]], num_outputs=1)
    safe = ir.node("Where", [found.outputs[0], one.outputs[0], b], num_outputs=1)
    quotient = ir.node("Div", [a, safe.outputs[0]], num_outputs=1)
    negative = ir.node("Neg", [a], num_outputs=1)
    result = ir.node("Where", [found.outputs[0], negative.outputs[0], quotient.outputs[0]], num_outputs=1, name=node.name)
    new = [one, minus, found, safe, quotient, negative, result]
    result.outputs[0].shape, result.outputs[0].type = out.shape, out.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [out], result.outputs)
