"""Computing once what no input reaches: constants, batch norms, biases added by hand."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sparsecc.graph.fx_layers import Layer, arguments, aten, match, stored, transposed
from sparsecc.graph.fx_tensors import assign, free_name, read_node

FOLDED_FLOAT_BYTES = 1 << 16  # a folded float constant that is larger than what it was computed from may have so much
FOLDED_INDEX_BYTES = 1 << 22  # masks and positions: attention masks of 2048 tokens still fold


def fold_constants(module: GraphModule) -> None:
    """Compute once what no input reaches: split projection weights, weight norms, positions, masks of fixed size."""
    known: dict[Node, Any] = {}
    for node in module.graph.nodes:
        value = _constant(node, known)
        if value is not None:
            known[node] = value
    for node in [node for node in known if node.op == "call_function"]:
        if isinstance(known[node], Tensor) and any(user not in known for user in node.users):
            _materialize(module, node, known[node])


def _constant(node: Node, known: dict[Node, Any]) -> Any:
    if node.op == "get_attr":
        return stored(node)
    if node.op != "call_function" or not _is_pure(node.target) or any(source not in known for source in node.all_input_nodes):
        return None
    if transposed(node) is not None:
        return None  # layers read a transposed weight where it is
    args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
    with torch.no_grad():
        value = node.target(*args, **kwargs)  # type: ignore[operator]
    if isinstance(value, Tensor):
        return value if _affordable(value, [known[source] for source in node.all_input_nodes]) else None
    return value if isinstance(value, (tuple, list)) else None


def _is_pure(target: Any) -> bool:
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _affordable(value: Tensor, sources: list[Any]) -> bool:
    """Folding must not undo compression: int8 · scale → float32 stays an expression."""
    from_bytes = sum(source.nbytes for source in sources if isinstance(source, Tensor))
    limit = max(from_bytes, FOLDED_FLOAT_BYTES) if value.is_floating_point() else FOLDED_INDEX_BYTES
    split_off = any(isinstance(source, (tuple, list)) for source in sources)  # a part of tensors that were affordable
    return split_off or value.nbytes <= limit


def _materialize(module: GraphModule, node: Node, value: Tensor) -> None:
    origin = _origin(node)
    trainable = origin is not None and isinstance(stored(origin), nn.Parameter) and stored(origin).requires_grad  # type: ignore[union-attr]
    name = free_name(module, _folded_name(str(origin.target)) if origin is not None else "constant")
    assign(module, name, value.contiguous().clone(), trainable=trainable, learnt=_learnt(node))
    read = read_node(module, node, name)
    read.meta.update(node.meta)
    node.replace_all_uses_with(read)


def _learnt(node: Node) -> bool:
    """Whether a parameter is among what a constant was computed from."""
    return isinstance(stored(node), nn.Parameter) or any(_learnt(source) for source in node.all_input_nodes)


def _folded_name(origin: str) -> str:
    """fc.weight from fc.parametrizations.weight.original0, the way torch keeps a weight norm."""
    parametrized = re.fullmatch(r"(.+\.)?parametrizations\.(\w+)\.original\d*", origin)
    return f"{parametrized[1] or ''}{parametrized[2]}" if parametrized else f"{origin}_folded"


def _origin(node: Node) -> Node | None:
    """The first stored tensor that a constant was computed from."""
    while node.op != "get_attr":
        if not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return node


def fold_batch_norms(module: GraphModule) -> None:
    """layer(x, W, b) → batch_norm   becomes   layer(x, W', b'), in inference the same."""
    for node in list(module.graph.nodes):
        found = _BATCH_NORMS.get(node.target) if node.op == "call_function" else None
        if found is None:
            continue
        result = found(node)
        layer = match(node.args[0])
        if result is not None and isinstance(layer, Layer) and _alone(layer) and _per_channel(layer, node):
            _fold_batch_norm(module, layer, node, result)


def _alone(layer: Layer) -> bool:
    """Whether the batch norm alone reads the layer, the layer alone its weight, and the operator takes a bias."""
    return len(layer.node.users) == 1 and len(layer.weight.users) == 1 and "bias" in arguments(layer.node)


def _per_channel(layer: Layer, norm: Node) -> bool:
    """Batch norm works along axis 1: the layer's outputs, unless a linear layer has tokens there."""
    constants = [stored(tensor) for tensor in norm.args[1:5] if tensor is not None]
    along_outputs = layer.geometry is not None or layer.node.meta["val"].dim() == 2
    return along_outputs and all(tensor is not None for tensor in constants)


def _fold_batch_norm(module: GraphModule, layer: Layer, norm: Node, result: Node) -> None:
    weight, bias = stored(layer.weight), stored(layer.bias)
    gamma, beta, mean, var = (stored(tensor) for tensor in norm.args[1:5])
    folded_weight, folded_bias = fuse_conv_bn_weights(weight, bias, mean, var, arguments(norm)["eps"], gamma, beta)  # type: ignore[arg-type]
    weight_name = str(layer.weight.target)
    bias_name = free_name(module, weight_name.removesuffix("weight").rstrip(".") + ".bias")
    assign(module, weight_name, folded_weight, trainable=weight.requires_grad)  # type: ignore[union-attr]
    assign(module, bias_name, folded_bias, trainable=weight.requires_grad)  # type: ignore[union-attr]
    node = layer.node
    arguments_by_name = arguments(node)
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    arguments_by_name["bias"] = read_node(module, node, bias_name)
    node.args, node.kwargs = tuple(arguments_by_name[name] for name in names), {}
    result.replace_all_uses_with(node)


def fold_added_biases(module: GraphModule) -> None:
    """add(x @ W, b) → linear(x, Wᵀ, b) for a stored vector b."""
    for node in list(module.graph.find_nodes(op="call_function", target=aten.add.Tensor)):
        for product, bias in (node.args[:2], node.args[1::-1]):
            layer = match(product)
            if isinstance(layer, Layer) and _takes_bias(layer, bias) and arguments(node)["alpha"] == 1:
                _add_bias(module, layer, node, bias)
                break


def _takes_bias(layer: Layer, bias: Any) -> bool:
    vector, weight = stored(bias), stored(layer.weight)
    if vector is None or weight is None or layer.bias is not None or layer.geometry is not None or len(layer.node.users) != 1:
        return False
    return tuple(vector.shape) == (weight.shape[1 if layer.transposed else 0],)


def _add_bias(module: GraphModule, layer: Layer, add: Node, bias: Node) -> None:
    weight = layer.weight
    with module.graph.inserting_before(add):
        if layer.transposed:
            weight = module.graph.call_function(aten.t.default, (layer.weight,))
            weight.meta["val"] = layer.weight.meta["val"].t()
        linear = module.graph.call_function(aten.linear.default, (layer.x, weight, bias))
    linear.meta = {**add.meta, "nn_module_stack": layer.node.meta.get("nn_module_stack", {})}
    add.replace_all_uses_with(linear)
    module.graph.erase_node(add)
    module.graph.erase_node(layer.node)


def _legit(node: Node) -> Node | None:
    """The first of the three results, when it is the only one used."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is operator.getitem and users[0].args[1] == 0 else None


def _in_eval(node: Node) -> Node | None:
    return None if arguments(node)["training"] else node


_BATCH_NORMS: dict[Any, Callable[[Node], Node | None]] = {
    aten._native_batch_norm_legit_no_training.default: _legit,
    aten.batch_norm.default: _in_eval,
}
