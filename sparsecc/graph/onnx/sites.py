"""Finding the sites of an ONNX graph: layers that multiply by a stored weight, attention, and layers that belong together.

Only the main graph is searched, not the bodies of If and Loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import onnx_ir as ir
from torch import Tensor

from sparsecc.forms import Form
from sparsecc.graph.fx.sites import mlp_name
from sparsecc.graph.onnx import names as onnx_names
from sparsecc.graph.onnx import sparse
from sparsecc.graph.onnx.activations import Activation, activation_of
from sparsecc.graph.onnx.attention import AttentionNodes, attention_at
from sparsecc.graph.onnx.fold import constant, only_use
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.sites import Attention, Conv1d, Conv2d, Linear, Mlp, Site, unique

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class WeightNodes:
    """A layer in the graph. node: MatMul, Gemm, Conv or a node of ai.sparsecc.  weight: its initializer (the first tensor of an
    ai.sparsecc node's weight).  transposed: the weight is stored as [in, out].  bias_add: the Add after a MatMul that is its bias."""

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None = None
    bias_add: ir.Node | None = None
    transposed: bool = False

    @property
    def x(self) -> ir.Value:
        return require(self.node.inputs[0])

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        return (self.x,)

    @property
    def output(self) -> ir.Value:
        return (self.bias_add or self.node).outputs[0]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return (self.node, self.bias_add) if self.bias_add is not None else (self.node,)

    @property
    def in_line(self) -> bool:
        """Whether the images of a sparse convolution are lines that were given a height."""
        lifted = self.x.producer()
        return lifted is not None and lifted.op_type == "Unsqueeze" and sparse.axes_of(lifted) == [sparse.HEIGHT]

    @property
    def shared(self) -> bool:
        """Whether the weight serves anything else, be it through a Transpose."""
        used = self.weight.uses()
        turned = self.node.inputs[1] is not self.weight and len(require(self.node.inputs[1]).uses()) > 1
        return len(used) > 1 or turned or self.weight.is_graph_output()


def find(model: ir.Model) -> list[Site]:
    """All sites in execution order, an Mlp after its second layer, with their nodes as handles and names made unique."""
    names: dict[str, None] = {}
    sites: list[Site] = []
    first_of: dict[ir.Value, tuple[Linear, Activation]] = {}
    for node in model.graph:
        layer = layer_at(node)
        if layer is not None:
            activation = activation_of(layer.output)
            site = _weight_site(layer, unique(onnx_names.given(node), names), activation)
            sites.append(site)
            if isinstance(site, Linear):
                if layer.x in first_of:
                    sites.append(_mlp(*first_of[layer.x], site, names))
                if activation is not None and only_use(activation.output) is not None:
                    first_of[activation.output] = (site, activation)
            continue
        attention = attention_at(node)
        if attention is not None:
            sites.append(_attention(attention, unique(onnx_names.given(attention.nodes[-1]), names)))
    return sites


def site_of(node: ir.Node, name: str) -> Linear | Conv2d | None:
    """The site that the layer at a node is, called so; None where there is no layer."""
    layer = layer_at(node)
    return None if layer is None else _weight_site(layer, name, activation_of(layer.output))


def layer_at(node: ir.Node) -> WeightNodes | None:
    """The layer that a node is, or None: also for one whose weight or bias is computed, or whose padding depends on an unknown size."""
    if sparse.is_sparse(node):
        return WeightNodes(node, require(node.inputs[1]), sparse.bias(node))
    if node.domain != "":
        return None
    if node.op_type == "MatMul":
        return _matmul(node)
    if node.op_type == "Gemm":
        return _gemm(node)
    return _conv(node) if node.op_type == "Conv" else None


def _matmul(node: ir.Node) -> WeightNodes | None:
    found = _stored_matrix(node.inputs[1])
    if found is None or constant(node.inputs[0]) is not None:
        return None
    weight, turned = found
    outputs = require(weight.const_value).shape[0 if turned else 1]
    add = only_use(node.outputs[0])
    if add is not None and add.op_type == "Add" and add.domain == "":
        bias = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
        if _is_bias(bias, outputs) and require(bias.const_value).shape.rank() <= _rank(node.outputs[0]):
            return WeightNodes(node, weight, bias, add, transposed=not turned)
    return WeightNodes(node, weight, transposed=not turned)


def _gemm(node: ir.Node) -> WeightNodes | None:
    attributes = node.attributes
    found = _stored_matrix(node.inputs[1])
    if found is None or attributes.get_int("transA", 0) or any(attributes.get_float(factor, 1.0) != 1 for factor in ("alpha", "beta")):
        return None
    weight, turned = found
    transposed = turned == bool(attributes.get_int("transB", 0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not _is_bias(bias, require(weight.const_value).shape[1 if transposed else 0]):
        return None
    return WeightNodes(node, weight, bias, transposed=transposed)


def _conv(node: ir.Node) -> WeightNodes | None:
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if not (_is_weight(weight, 3) or _is_weight(weight, 4)) or (bias is not None and constant(bias) is None):
        return None
    return WeightNodes(node, require(weight), bias) if _slides(node) and padding_of(node) is not None else None


def _slides(conv: ir.Node) -> bool:
    """Whether the attributes have a number for each of the dimensions, as onnx's checker does not check."""
    axes = _axes(conv)
    lengths = {"strides": axes, "dilations": axes, "pads": 2 * axes}
    return all(len(conv.attributes.get_ints(name, [0] * length)) == length for name, length in lengths.items())


def _stored_matrix(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """(initializer, whether it is used transposed) of a constant matrix."""
    producer = value.producer() if value is not None else None
    turned = producer is not None and producer.op_type == "Transpose" and tuple(producer.attributes.get_ints("perm", [1, 0])) == (1, 0)
    source = producer.inputs[0] if turned and producer is not None else value
    return (source, turned) if source is not None and _is_weight(source, 2) else None


def _is_weight(value: ir.Value | None, rank: int) -> bool:
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return False
    return value.const_value.shape.rank() == rank and value.const_value.dtype in FLOATS and 0 not in value.const_value.shape


def _is_bias(value: ir.Value | None, outputs: object) -> TypeGuard[ir.Value]:
    """A stored vector over the outputs, leading dimensions of 1 allowed."""
    if value is None or value.const_value is None or constant(value) is None:
        return False
    shape = value.const_value.shape
    return shape.rank() >= 1 and shape[-1] == outputs and value.const_value.size == outputs


def _rank(value: ir.Value) -> int:
    return len(value.shape) if value.shape is not None else 1


def padding_of(conv: ir.Node) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right), auto_pad resolved; None when that needs a size which the model leaves open."""
    attributes, axes = conv.attributes, _axes(conv)
    none = [0] * (2 - axes)  # of the height that lines do not have
    mode = attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = attributes.get_ints("pads", [0] * 2 * axes)
        return (*none, *pads[:axes], *none, *pads[axes:])  # type: ignore[return-value]
    if mode == "VALID":
        return (0, 0, 0, 0)
    shape, kernel = require(conv.inputs[0]).shape, _kernel(conv)
    strides, dilations = attributes.get_ints("strides", [1] * axes), attributes.get_ints("dilations", [1] * axes)
    begin, end = none.copy(), none.copy()
    for axis in range(axes):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        size = shape[2 + axis] if shape is not None else None
        if strides[axis] == 1:
            total = reach - 1
        elif isinstance(size, int):
            total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
        else:
            return None
        small = total // 2
        begin.append(small if mode == "SAME_UPPER" else total - small)
        end.append(total - begin[-1])
    return (begin[0], begin[1], end[0], end[1])


def _weight_site(layer: WeightNodes, name: str, activation: Activation | None) -> Linear | Conv2d:
    node = layer.node
    common: dict[str, Any] = {
        "name": name,
        "handle": layer,
        "stored": sparse.weight(node) if sparse.is_sparse(node) else _dense(layer),
        "bias": sparse.tensor_of(layer.bias).reshape(-1) if layer.bias is not None else None,
        "activation": activation.name if activation is not None else None,
        "weight_name": layer.weight.name or "",
        "shared": layer.shared,
    }
    if not _is_conv(node):
        return Linear(**common)
    stored = common["stored"]
    kernel: Any = tuple(node.attributes["kernel_shape"].as_ints()) if isinstance(stored, Form) else tuple(stored.shape[2:])
    in_line = layer.in_line if isinstance(stored, Form) else len(kernel) == 1
    kernel = (*[1] * (2 - len(kernel)), *kernel)
    geometry = {"stride": _pair(node, "strides"), "padding": padding_of(node) or (0, 0, 0, 0), "dilation": _pair(node, "dilations")}
    return (Conv1d if in_line else Conv2d)(**common, **geometry, kernel=kernel, groups=node.attributes.get_int("group", 1))


def _axes(conv: ir.Node) -> int:
    """Along how many a convolution slides."""
    return 2 if sparse.is_sparse(conv) else len(_kernel(conv))


def _kernel(conv: ir.Node) -> Sequence[int]:
    """The sizes along the axes."""
    return require(require(conv.inputs[1]).const_value).shape.numpy()[2:]


def _dense(layer: WeightNodes) -> Tensor:
    weight = sparse.tensor_of(layer.weight)
    return weight.t() if layer.transposed else weight


def _is_conv(node: ir.Node) -> bool:
    return sparse.is_conv(node) if sparse.is_sparse(node) else node.op_type == "Conv"


def _pair(node: ir.Node, name: str) -> tuple[int, int]:
    *first, last = node.attributes.get_ints(name, [1, 1])
    return (first[0] if first else 1, last)


def _attention(found: AttentionNodes, name: str) -> Attention:
    return Attention(
        name=name, handle=found, heads=found.heads, kv_heads=found.kv_heads, head_dim=found.head_dim, scale=found.scale,
        causal=found.causal, has_mask=found.has_mask, tokens=found.q.extent(2), kv_tokens=found.k.extent(2),
        block_map=found.block_map, precision=found.precision, bound=found.bound,
    )  # fmt: skip


def _mlp(first: Linear, activation: Activation, second: Linear, taken: dict[str, None]) -> Mlp:
    return Mlp(name=unique(mlp_name(first, second), taken), handle=activation, first=first, second=second, activation=activation.name)
