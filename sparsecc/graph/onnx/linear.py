"""Spelling linear layers as MatMul or Gemm with a stored matrix, which is what sites are found by.

MatMul(x, W[1, K, N])      ->  MatMul(x, W[K, N])
Gemm(x, W, c, transA=1)    ->  Gemm(Transpose(x), W, c)
Gemm(x, W, c)              ->  Gemm(x, W, [c, .., c]) for a number c;  Add(Gemm(x, W), c) for a c that is no bias
Einsum(x, W)               ->  MatMul between views, where one axis set is summed over and no other is shared
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.graph import einsums
from sparsecc.graph.onnx import names
from sparsecc.graph.onnx.fold import constant, new_constant, only_use, put
from sparsecc.graph.onnx.optional import require


def spell(model: ir.Model) -> None:
    """Rewrite in place."""
    for node in list(model.graph):
        if node.domain in ("", "ai.onnx") and node.op_type in _RULES:
            _RULES[node.op_type](node)


def _matmul(node: ir.Node) -> None:
    x, weight = node.inputs
    array = constant(weight)
    if array is None or array.ndim < 3 or any(size != 1 for size in array.shape[:-2]) or weight is None or only_use(weight) is None:
        return
    if constant(x) is not None or x is None or x.shape is None or len(x.shape) < array.ndim:
        return  # the product has the rank of the weight
    put(weight, array.reshape(array.shape[-2:]))


def _gemm(node: ir.Node) -> None:
    x, weight, bias = (*node.inputs, None)[:3]
    array = constant(weight)
    if array is None or x is None or constant(x) is not None:
        return
    if node.attributes.get_int("transA", 0):
        turned = _before(node, "Transpose", [x], perm=[1, 0])
        turned.shape = None if x.shape is None else ir.Shape([*x.shape][::-1])
        node.replace_input_with(0, turned)
        node.attributes["transA"] = ir.AttrInt64("transA", 0)
    outputs = array.shape[0 if node.attributes.get_int("transB", 0) else 1]
    added = constant(bias)
    if bias is None or (added is not None and added.ndim and added.size == outputs and added.shape[-1] == outputs):
        return
    if added is not None and added.size == 1:
        vector = np.full(outputs, added.reshape(()), added.dtype)
        node.replace_input_with(2, new_constant(node, f"{node.outputs[0].name}_bias", vector))
    elif node.attributes.get_float("beta", 1.0) == 1.0:
        _add_after(node, bias)


def _add_after(node: ir.Node, bias: ir.Value) -> None:
    """Gemm(x, W, c) -> Add(Gemm(x, W), c)"""
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    product = node.outputs[0]
    add = ir.node("Add", [product, bias], num_outputs=1)
    _take_over(node, product, add)


def _einsum(node: ir.Node) -> None:
    equation, ranks = node.attributes.get_string("equation", ""), [_rank(value) for value in node.inputs]
    stored = [place for place, value in enumerate(node.inputs) if constant(value) is not None]
    if len(node.inputs) != 2 or len(stored) != 1 or None in ranks:
        return
    found = einsums.linear(equation, (ranks[0], ranks[1]), stored[0])  # type: ignore[arg-type]
    weight, x = node.inputs[stored[0]], node.inputs[1 - stored[0]]
    if found is None or weight is None or x is None or only_use(weight) is None:
        return
    array = np.ascontiguousarray(require(weight.const_value).numpy().transpose(found.turn_weight))
    kept = array.shape[-found.outputs :]
    put(weight, array.reshape(-1, int(np.prod(kept))))
    stays = len(found.turn_x) - found.summed
    x = _turned(node, x, found.turn_x)
    if found.summed > 1:
        x = _reshaped(node, x, [*[0] * stays, -1])
    y = _before(node, "MatMul", [x, weight])
    product = y.producer()
    assert product is not None
    product.name = node.name
    product.metadata_props.update(node.metadata_props)
    product.metadata_props.setdefault(names.SITE_KEY, names.of_layer(product) or "")
    if len(kept) > 1:
        y = _reshaped(node, y, [*[0] * stays, *kept])
    y = _turned(node, y, found.unturn)
    _replace(node, y)


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _turned(node: ir.Node, x: ir.Value, axes: Sequence[int]) -> ir.Value:
    return x if list(axes) == sorted(axes) else _before(node, "Transpose", [x], perm=list(axes))


def _reshaped(node: ir.Node, x: ir.Value, shape: Sequence[int]) -> ir.Value:
    """A 0 keeps the size that is there."""
    return _before(node, "Reshape", [x, new_constant(node, f"{node.outputs[0].name}_shape", np.array(shape, np.int64))])


def _before(node: ir.Node, op_type: str, inputs: Sequence[ir.Value], **attributes: list[int]) -> ir.Value:
    """The result of a new operator in front of a node."""
    assert node.graph is not None
    new = ir.node(op_type, inputs, attributes, num_outputs=1)
    new.outputs[0].type = inputs[0].type
    node.graph.insert_before(node, new)
    return new.outputs[0]


def _take_over(node: ir.Node, product: ir.Value, after: ir.Node) -> None:
    """Let a new operator behind a node give what the node gave, under its name."""
    assert node.graph is not None
    result = after.outputs[0]
    result.shape, result.type = product.shape, product.type
    node.graph.insert_after(node, after)
    ir.convenience.replace_all_uses_with([product], [result], replace_graph_outputs=True)
    after.replace_input_with(0, product)
    result.name, product.name = product.name, f"{product.name}_product"


def _replace(node: ir.Node, y: ir.Value) -> None:
    """Put what has been computed in front of a node in its place."""
    assert node.graph is not None
    old = node.outputs[0]
    y.shape, y.type, y.name = old.shape, old.type, old.name
    ir.convenience.replace_all_uses_with([old], [y], replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


_RULES = {"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum}
