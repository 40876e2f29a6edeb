"""Making a traced graph say what it computes and nothing else.

Assertions go, copies that copy nothing go, what depends on weights alone is computed once, batch norms move into the layer
before them. Outputs stay equal to rounding; the module's own tensors are never written, new ones take their place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sparsecc.graph.fx_layers import Layer, arguments, aten, match, stored, transposed

FOLDED_FLOAT_BYTES = 1 << 16  # a folded float constant that is larger than what it was computed from may have so much
FOLDED_INDEX_BYTES = 1 << 22  # masks and positions: attention masks of 2048 tokens still fold
_ASSERTIONS = ("aten._assert", "aten.sym_constrain_range", "aten._functional_assert", "aten._functional_sym")
_EVERYTHING = 2**63 - 1  # where torch.export ends a slice that has no end


def clean(module: GraphModule) -> None:
    """Bring a graph from torch.export into normal form, in place."""
    for step in (drop_assertions, _drop_input_writes, _drop_copies, _spell_out_padding, _fold_constants, _fold_batch_norms):
        step(module)
    sweep(module)


def sweep(module: GraphModule) -> None:
    """Remove nodes that nothing uses and tensors that no node reads, and recompile."""
    module.graph.eliminate_dead_code()
    for node in module.graph.find_nodes(op="get_attr"):
        if not node.users:
            module.graph.erase_node(node)
    _drop_unread(module)
    module.graph.lint()
    module.recompile()


def assign(module: nn.Module, name: str, tensor: Tensor, *, trainable: bool) -> None:
    """Put a tensor at a dotted name, as a parameter when it can be trained, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if hasattr(module, leaf):
        delattr(module, leaf)
    if trainable and tensor.is_floating_point():
        module.register_parameter(leaf, nn.Parameter(tensor.detach(), requires_grad=True))
    else:
        module.register_buffer(leaf, tensor.detach())


def free_name(module: nn.Module, name: str) -> str:
    """`name`, or `name_1`, `name_2`, ... : the first at which the module holds nothing."""
    tries = (name, *(f"{name}_{i}" for i in range(1, 1 << 20)))
    return next(candidate for candidate in tries if not _holds(module, candidate))


def free_prefix(module: nn.Module, name: str, leaves: tuple[str, ...]) -> str:
    """`name`, or `name_1`, ... : the first below which all `leaves` are free."""
    tries = (name, *(f"{name}_{i}" for i in range(1, 1 << 20)))
    return next(prefix for prefix in tries if not any(_holds(module, f"{prefix}.{leaf}") for leaf in leaves))


def read_node(module: GraphModule, before: Node, name: str) -> Node:
    """A new get_attr node for the tensor at `name`, just before a node."""
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(name)
    node.meta["val"] = stored(node)
    return node


def _holds(module: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(module, nn.Module):
            return True  # a tensor stands where a module would have to
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def drop_assertions(module: GraphModule) -> None:
    """torch.export checks dtypes and sizes in the graph; hosts check inputs before they run it."""
    for node in reversed(module.graph.nodes):
        if node.op == "call_function" and str(node.target).startswith(_ASSERTIONS) and not node.users:
            module.graph.erase_node(node)


def _drop_input_writes(module: GraphModule) -> None:
    """A model that scales its input in place would write into the caller's tensors; its outputs do not depend on that."""
    for node in reversed(module.graph.find_nodes(op="call_function", target=aten.copy_.default)):
        if node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[1])
            module.graph.erase_node(node)


def _drop_copies(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function" and _copies_nothing(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _copies_nothing(node: Node) -> bool:
    """Whether the result has the values, the shape and the strides of the first argument."""
    if node.target in (aten.clone.default, aten.lift_fresh_copy.default, aten.alias.default):
        return node.kwargs.get("memory_format") in (None, torch.preserve_format)
    if node.target is aten.slice.Tensor:
        given = arguments(node)
        return given["start"] in (None, 0) and given["end"] in (None, _EVERYTHING) and given["step"] == 1
    return False


def _spell_out_padding(module: GraphModule) -> None:
    """padding='same' as numbers, where it is the same on both sides."""
    for node in module.graph.find_nodes(op="call_function", target=aten.conv2d.padding):
        layer = match(node)
        if isinstance(layer, Layer) and layer.geometry and layer.geometry.padding[:2] == layer.geometry.padding[2:]:
            given = arguments(node) | {"padding": list(layer.geometry.padding[:2])}
            node.target = aten.conv2d.default
            node.args, node.kwargs = tuple(given[argument.name] for argument in node.target._schema.arguments), {}


def _fold_constants(module: GraphModule) -> None:
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
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
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
    name = free_name(module, f"{origin.target}_folded" if origin is not None else "constant")
    assign(module, name, value.contiguous().clone(), trainable=trainable)
    read = read_node(module, node, name)
    read.meta.update(node.meta)
    node.replace_all_uses_with(read)


def _origin(node: Node) -> Node | None:
    """The first stored tensor that a constant was computed from."""
    while node.op != "get_attr":
        if not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return node


def _fold_batch_norms(module: GraphModule) -> None:
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


def _drop_unread(module: GraphModule) -> None:
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, _ in held:
        if name not in read:
            path, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(path), leaf)
