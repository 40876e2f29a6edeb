"""Computing once what no input reaches: constants, batch norms, biases added by hand."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sparsecc.graph.fx import state
from sparsecc.graph.fx.layers import Layer, arguments, aten, match, stored, transposed
from sparsecc.graph.fx.tensors import assign, free_name, holds, read_node

FOLDED_FLOAT_BYTES = 1 << 16  # a folded float constant that is larger than what it was computed from may have so much
FOLDED_INDEX_BYTES = 1 << 22  # masks and positions: attention masks of 2048 tokens still fold


def fold_constants(module: GraphModule) -> None:
    """Compute once what no input reaches: split projection weights, masked ones, weight norms, positions, masks of fixed size."""
    folded = _worth_folding(module)
    needed = _closure(folded)
    known: dict[Node, Any] = {}
    for node in [node for node in module.graph.nodes if node in needed]:
        if node.op == "get_attr":
            known[node] = stored(node)
            continue
        args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
        with torch.no_grad():
            known[node] = node.target(*args, **kwargs)
    for node in folded:
        _materialize(module, node, known[node])


def _worth_folding(module: GraphModule) -> list[Node]:
    """The last nodes that no input reaches, as far as what they give is no larger than what is stored for it; what is read by other
    nodes of that kind alone may be larger, as B·A of W + B·A is."""
    sources = _constants(module)
    folded = []
    for node in reversed(module.graph.nodes):
        if node not in sources or node.op != "call_function" or all(user in sources for user in node.users):
            continue
        if transposed(node) is None and _affordable(node, sources[node]):
            folded.append(node)
        else:
            del sources[node]  # so that its operands have a reader that is computed in every run
    return folded[::-1]


def _constants(module: GraphModule) -> dict[Node, frozenset[Node]]:
    """The nodes that no input reaches, and the stored tensors that each one is computed from."""
    found: dict[Node, frozenset[Node]] = {}
    written = state.written(module)
    for node in module.graph.nodes:
        operands = node.all_input_nodes
        if node.op == "get_attr" and stored(node) is not None and node.target not in written:
            found[node] = frozenset({node})
        elif node.op == "call_function" and _is_pure(node.target) and all(operand in found for operand in operands):
            found[node] = frozenset().union(*(found[operand] for operand in operands))
    return found


def _closure(nodes: Iterable[Node]) -> dict[Node, None]:
    """The nodes and all that they are computed from, first operands first."""
    found: dict[Node, None] = {}
    remaining = [*nodes]
    while remaining:
        node = remaining.pop()
        if node not in found:
            found[node] = None
            remaining += reversed(node.all_input_nodes)
    return found


def _is_pure(target: Any) -> bool:
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _affordable(node: Node, sources: frozenset[Node]) -> bool:
    """Folding must not undo compression: int8 · scale → float32 stays an expression."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not all(isinstance(size, int) for size in value.shape):
        return False
    from_bytes = sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in map(stored, sources) if tensor is not None}.values())
    limit = FOLDED_FLOAT_BYTES if value.is_floating_point() else FOLDED_INDEX_BYTES
    return value.numel() * value.element_size() <= max(from_bytes, limit)


def _materialize(module: GraphModule, node: Node, value: Tensor) -> None:
    origin = _origin(node)
    parameter = stored(origin)
    learnt = isinstance(parameter, nn.Parameter)
    trainable = learnt and parameter.requires_grad
    name = free_name(module, _folded_name(module, str(origin.target)) if origin is not None else "constant")
    assign(module, name, value.contiguous().clone(), trainable=trainable, learnt=learnt)
    read = read_node(module, node, name)
    read.meta.update(node.meta)
    node.replace_all_uses_with(read)


_FOLDED = "_folded"
_SPLIT = (("_orig", "_mask"), ("_orig", "_u"), ("_v", "_g"))  # what masks, spectral norms and weight norms keep in place of a weight


def _folded_name(module: nn.Module, origin: str) -> str:
    """A name for what was computed from a stored tensor: fc.weight where torch keeps that as fc.parametrizations.weight.0.base of an
    orthogonal one, as fc.weight_orig beside a mask or as fc.weight_v of a weight norm; else fc.weight_folded from fc.weight."""
    parametrized = re.fullmatch(r"(.+\.)?parametrizations\.(\w+)\..+", origin)
    if parametrized:
        return f"{parametrized[1] or ''}{parametrized[2]}"
    for end, beside in _SPLIT:
        name = origin.removesuffix(end)
        if name != origin and holds(module, f"{name}{beside}"):
            return name
    return f"{origin}{_FOLDED}"


def unfolded_name(name: str) -> str:
    """The name of the tensor that a folded one was computed from, where it is not the name of its own."""
    return re.sub(rf"{_FOLDED}(_\d+)?$", "", name)


def _origin(node: Node) -> Node | None:
    """The stored tensor that a constant was computed from: the first parameter of its size, else the first parameter, else the first
    tensor, so that a weight is told from its mask, its norms and its scales."""
    value = node.meta["val"]

    def rank(source: Node) -> tuple[bool, bool]:
        tensor = stored(source)
        return not isinstance(tensor, nn.Parameter), tensor is None or tensor.numel() != value.numel()

    return min((source for source in _closure([node]) if source.op == "get_attr"), key=rank, default=None)


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
    holder = weight_name.rpartition(".")[0]
    bias_name = free_name(module, f"{holder}.bias" if holder else "bias")
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
