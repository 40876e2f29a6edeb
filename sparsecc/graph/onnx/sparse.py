"""Nodes of domain `ai.sparsecc` in an ONNX graph: making them, reading them back, and the functions that a file carries for them.

The meaning of the operators is `sparsecc.ops`' and the formats' own; this is the one place where the host asks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from torch import Tensor

from sparsecc import ops
from sparsecc.errors import ModelError, RecipeError, UserError
from sparsecc.graph.onnx.names import given
from sparsecc.graph.onnx.optional import require
from sparsecc.ops.base import ONNX_DOMAIN, SiteOp
from sparsecc.ops.block_attention import onnx as block_attention
from sparsecc.ops.block_attention.onnx import is_block_attention
from sparsecc.ops.onnx_body import DOMAIN_VERSION, MIN_OPSET

if TYPE_CHECKING:
    from sparsecc.attention.base import BlockMap
    from sparsecc.attention.rounding import Precision
    from sparsecc.forms import Form, Storage
    from sparsecc.ops.block_attention.torch import BlockAttention

HEIGHT = 2  # the axis that lines are given when a convolution along them becomes one of images


def is_sparse(node: ir.Node) -> bool:
    """Whether a node is a layer of this domain; what has no weight is none."""
    return node.domain == ONNX_DOMAIN and not is_block_attention(node)


def is_conv(node: ir.Node) -> bool:
    return "kernel_shape" in node.attributes


def weight(node: ir.Node) -> Form:
    """The weight of a node, its tensors shared with the graph. Raises ModelError for a node that sparsecc did not write so."""
    site = given(node)
    try:
        storage = _storage(node)
        if ops.layer_functions(node.op_type).op_type(*_signature(node)) != node.op_type:
            raise TypeError(f"its weight is said to be {storage.key}, it has {len(node.inputs)} inputs")
        tensors = [tensor_of(require(node.inputs[1 + i])) for i in range(len(storage.tensor_names))]
        return storage.hold(*_shape(node), tensors)
    except (RecipeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"layer '{site}': no {node.op_type} that this version of sparsecc writes ({error})") from None


def block_map(node: ir.Node) -> BlockMap:
    """Of a BlockAttention node. Raises ModelError for one that sparsecc did not write so."""
    try:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        constants = node.inputs[4 if is_masked(node) else 3 :]
        return block_attention.restore(attributes, [tensor_of(value) for value in constants if value is not None])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"attention '{given(node)}': no {node.op_type} that this version of sparsecc writes ({error})") from None


def bias(node: ir.Node) -> ir.Value | None:
    before = 1 + len(_storage(node).tensor_names)
    return node.inputs[before] if len(node.inputs) > before else None


def make_node(op: SiteOp, site: str, x: ir.Value, prefix: str, opset: int) -> ir.Node:
    """The node for `op`, its tensors as new initializers `<prefix>.<tensor>`, not yet in a graph.

    Raises UserError when the model's opset is older than the function bodies.
    """
    _require_functions(f"layer '{site}'", opset)
    call = ops.layer_functions(type(op).__name__).call(op, site)
    parts = {**op.stored.tensors, **({"bias": op.bias} if op.bias is not None else {})}
    inputs = [x, *(initializer(tensor, f"{prefix}.{name}") for name, tensor in parts.items())]
    return ir.node(call.op_type, inputs, call.attributes, domain=ONNX_DOMAIN, num_outputs=1)


def in_lines(node: ir.Node, x: ir.Value, site: str) -> list[ir.Node]:
    """A convolution of images with a height of 1 given to its lines x before it, and taken from them after it."""
    axis = initializer(torch.tensor([HEIGHT]), f"{site}.height")
    lifted = ir.node("Unsqueeze", [x, axis], num_outputs=1)
    node.replace_input_with(0, lifted.outputs[0])
    return [lifted, node, ir.node("Squeeze", [node.outputs[0], axis], num_outputs=1)]


def axes_of(node: ir.Node) -> list[int] | None:
    """The axes of an Unsqueeze or Squeeze, None where they are computed."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    return None if value is None or value.const_value is None else value.const_value.numpy().tolist()


def is_masked(node: ir.Node) -> bool:
    """Whether a BlockAttention node reads a mask."""
    return node.attributes.get_int("masked", 0) == 1


def precision_of(node: ir.Node) -> Precision:
    """What a BlockAttention node rounds q, k and v to."""
    return block_attention.Kind.of(node.op_type).precision


def make_block_attention(op: BlockAttention, site: str, inputs: Sequence[ir.Value], opset: int) -> ir.Node:
    """The node for `op` that reads these q, k, v and perhaps a mask, its tensors as new initializers `<site>.<tensor>`, not yet in a
    graph."""
    _require_functions(f"attention '{site}'", opset)
    call = block_attention.call(op, site, masked=len(inputs) > 3)
    constants = [initializer(tensor, f"{site}.{name}") for name, tensor in block_attention.stored(op.map).items()]
    return ir.node(call.op_type, [*inputs, *constants], call.attributes, domain=ONNX_DOMAIN, num_outputs=1)


def _require_functions(layer: str, opset: int) -> None:
    if opset < MIN_OPSET:
        raise UserError(f"{layer}: its operator needs opset {MIN_OPSET}, the model has {opset}; export it again")


def complete(model: ir.Model) -> None:
    """Give the model the functions that its sparse nodes call, in their current form, and no other function of the domain."""
    opset = model.graph.opset_imports[""]
    for identifier in [key for key in model.functions if key[0] == ONNX_DOMAIN]:
        del model.functions[identifier]
    nodes = [node for node in model.graph if node.domain == ONNX_DOMAIN]
    if nodes:
        model.graph.opset_imports[ONNX_DOMAIN] = DOMAIN_VERSION
        model.ir_version = max(model.ir_version, 8)  # the first with functions
    for node in nodes:
        identifier = (ONNX_DOMAIN, node.op_type, "")
        if identifier not in model.functions:
            model.functions[identifier] = function = _function(node, opset)
            for domain, version in function.opset_imports.items():
                model.graph.opset_imports.setdefault(domain, version)


def _storage(node: ir.Node) -> Storage:
    """How the node's attributes say that its weight is stored."""
    operator = ops.layer(ops.name_of(node.op_type))
    return operator.storage(node.attributes.get_string(operator.parameter, ""))


def _shape(node: ir.Node) -> tuple[int, int]:
    return node.attributes["rows"].as_int(), node.attributes["cols"].as_int()


def _signature(node: ir.Node) -> tuple[Any, int, int, bool]:
    """What functions of one operator are told apart by."""
    return _storage(node), *_shape(node), bias(node) is not None


def _function(node: ir.Node, opset: int) -> ir.Function:
    if is_block_attention(node):
        return block_attention.function(node.op_type, opset)
    return ops.layer_functions(node.op_type).function(*_signature(node), opset)


def initializer(tensor: Tensor, name: str) -> ir.Value:
    """A value that holds a torch tensor, sharing its memory."""
    constant = tensor_adapters.TorchTensor(tensor.detach().contiguous(), name=name)
    return ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(constant.dtype), const_value=constant)


def tensor_of(value: ir.Value) -> Tensor:
    """The torch tensor of an initializer, sharing its memory; not to be modified in place. Raises ModelError for numbers of 4 bits."""
    constant = value.const_value
    if constant is None:
        raise ModelError(f"tensor '{value.name}' has no value")
    if isinstance(constant, tensor_adapters.TorchTensor):
        return constant.raw
    try:
        kind = tensor_adapters.to_torch_dtype(constant.dtype)
    except TypeError:
        raise ModelError(f"tensor '{value.name}' is {constant.dtype.name.lower()}, in which no layer computes") from None
    array = np.ascontiguousarray(constant.numpy())
    shape = constant.shape.numpy()
    if not array.size:
        return torch.empty(shape, dtype=kind)
    # Through bytes: torch does not know numpy's bfloat16, and would warn that a mapped file cannot be written to.
    return torch.frombuffer(_writable(array), dtype=kind).reshape(shape)


def _writable(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, passed off as writable where they are not: sites' tensors are only read."""
    if array.flags.writeable:
        return array.reshape(-1).view(np.uint8)
    interface = {**array.reshape(-1).view(np.uint8).__array_interface__}
    interface["data"] = (interface["data"][0], False)
    holder = type("Bytes", (), {"__array_interface__": interface, "array": array})()
    return np.asarray(holder)
