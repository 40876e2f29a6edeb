"""Putting other tensors and other operators in the places of sites, in an ONNX model. What fits there, `Graph` has checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from torch import Tensor

from sparsecc.errors import UserError
from sparsecc.graph.channels import Channels
from sparsecc.graph.onnx import channels as following
from sparsecc.graph.onnx import sparse
from sparsecc.graph.onnx.attention import AttentionNodes, replacement
from sparsecc.graph.onnx.fold import constant, free_name
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.sites import WeightNodes
from sparsecc.graph.sites import Conv1d, Linear, Site, WeightSite
from sparsecc.ops.base import Operator, SiteOp
from sparsecc.ops.block_attention.torch import BlockAttention


def set_weight(model: ir.Model, site: WeightSite, weight: Tensor) -> None:
    """Of any shape."""
    layer: WeightNodes = site.handle
    stored = weight.detach().to(site.weight.dtype)
    if not layer.shared and layer.node.inputs[1] is layer.weight:
        _fill(layer.weight, stored.t() if layer.transposed else stored)
        return
    # Shared, or through a Transpose: the layer gets a weight of its own.
    product = layer.node.op_type == "MatMul" or (layer.node.op_type == "Gemm" and not layer.node.attributes.get_int("transB", 0))
    stored = stored.t() if product else stored
    before = layer.node.inputs[1]
    layer.node.replace_input_with(1, _registered(model.graph, stored, f"{site.name}.weight"))
    drop_unused(model.graph, [before])


def set_bias(model: ir.Model, site: WeightSite, bias: Tensor) -> None:
    """Of any size."""
    layer: WeightNodes = site.handle
    old = require(layer.bias)
    *ones, _ = require(old.const_value).shape.numpy()  # as the Add wants it
    stored = bias.detach().to(require(site.bias).dtype).reshape(*ones, -1)
    if len(old.uses()) == 1 and old.is_initializer():
        _fill(old, stored)
        return
    reader = layer.bias_add or layer.node
    reader.replace_input_with(list(reader.inputs).index(old), _registered(model.graph, stored, f"{site.name}.bias"))


def gather_inputs(model: ir.Model, site: Linear, order: Tensor) -> None:
    layer: WeightNodes = site.handle
    layer.node.replace_input_with(0, _gathered(model.graph, layer.x, order, f"{site.name}.order"))
    set_weight(model, site, site.weight[:, order])


def order_of(node: ir.Node | None) -> np.ndarray | None:
    """The constant order in which a node gathers along the last axis."""
    if node is None or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != -1:
        return None
    return constant(node.inputs[1])


def _gathered(graph: ir.Graph, x: ir.Value, order: Tensor, name: str) -> ir.Value:
    """x with its last axis in another order, as a node makes it that may be there already."""
    for use in x.uses():
        known = order_of(use.node)
        if known is not None and np.array_equal(known, order.numpy()):
            return use.node.outputs[0]
    node = ir.node("Gather", [x, _registered(graph, order, name)], {"axis": -1}, num_outputs=1)
    node.outputs[0].shape, node.outputs[0].type = x.shape, x.type
    producer = x.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return node.outputs[0]


def narrow(model: ir.Model, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    shapes = [node.inputs[1] for node in channels.handle.shaped]
    following.resize(model.graph, channels.handle, channels.units, len(units))
    _resize(model, channels.reader, weight, bias)
    for writer in channels.writers:
        rows = channels.rows(writer, units)
        _resize(model, writer, writer.weight[rows], None if writer.bias is None else writer.bias[rows])
    drop_unused(model.graph, shapes)


def _resize(model: ir.Model, site: Linear, weight: Tensor, bias: Tensor | None) -> None:
    """A weight and bias of another shape."""
    layer: WeightNodes = site.handle
    set_weight(model, site, weight)
    product = layer.node.outputs[0]
    if product.shape is not None:
        product.shape = ir.Shape([*product.shape[:-1], len(weight)])
    if bias is not None:
        set_bias(model, site, bias)


class _Made(NamedTuple):
    """Nodes that end in what takes the place of a site's output, and the constants that they read, not yet in a graph."""

    nodes: Sequence[ir.Node]
    constants: Sequence[ir.Value]


def replace(model: ir.Model, site: Site, op: Operator) -> None:
    """Raises UserError when the model's opset is too old for the operator."""
    found: WeightNodes | AttentionNodes = site.handle
    graph, inside = model.graph, {value for node in found.nodes for value in node.outputs}
    unused = [value for node in found.nodes for value in node.inputs if value not in inside and value not in found.inputs]
    made = _made(site, op, graph.opset_imports[""])
    ir.convenience.replace_nodes_and_values(
        graph, found.nodes[-1], list(reversed(found.nodes)), made.nodes, [found.output], made.nodes[-1].outputs
    )
    drop_unused(graph, unused)
    for value in made.constants:
        value.name = require(value.const_value).name = free_name(graph, value.name or "")
        graph.register_initializer(value)
    sparse.complete(model)


def _made(site: Site, op: Operator, opset: int) -> _Made:
    found: WeightNodes | AttentionNodes = site.handle
    if isinstance(found, AttentionNodes):
        if not isinstance(op, BlockAttention):
            raise UserError(f"attention '{site.name}': ONNX has no {type(op).__name__}")
        nodes = replacement(found, op, site.name, opset)
        return _Made(nodes, _constants(nodes))
    assert isinstance(op, SiteOp)
    node = sparse.make_node(op, site.name, found.x, f"{site.name}.{op.stored.word}", opset)
    node.name = found.node.name
    nodes = sparse.in_lines(node, found.x, site.name) if isinstance(site, Conv1d) and not found.in_line else [node]
    return _Made(nodes, _constants([node, *nodes]))


def _constants(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """Each once, in the order in which the nodes read them."""
    read = (value for node in nodes for value in node.inputs)
    return list(dict.fromkeys(value for value in read if value is not None and value.const_value is not None and value.graph is None))


def drop_unused(graph: ir.Graph, values: Sequence[ir.Value | None]) -> None:
    """Remove initializers that nothing reads any more, and a Transpose or Concat that led from some."""
    for value in values:
        if value is None or value.uses() or value.is_graph_output():
            continue
        producer = value.producer()
        if producer is not None and producer.op_type in ("Transpose", "Concat") and producer.graph is graph:
            sources = list(producer.inputs)
            graph.remove(producer, safe=True)
            drop_unused(graph, sources)
        elif value.is_initializer():
            del graph.initializers[require(value.name)]


def _registered(graph: ir.Graph, tensor: Tensor, name: str) -> ir.Value:
    """A new initializer, under a name that is free."""
    value = sparse.initializer(tensor, free_name(graph, name))
    graph.register_initializer(value)
    return value


def _fill(value: ir.Value, tensor: Tensor) -> None:
    """Another tensor for an initializer."""
    value.const_value = sparse.initializer(tensor, value.name or "").const_value
    value.shape = ir.Shape(tensor.shape)
