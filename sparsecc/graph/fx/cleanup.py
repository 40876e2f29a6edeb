"""Making a traced graph say what it computes and nothing else.

Assertions go, copies that copy nothing go, what depends on weights alone is computed once, batch norms and added biases
move into the layer before them, each layer has a bias of its own. Outputs stay equal to rounding; the original module's
tensors are never written.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sparsecc.errors import ModelError
from sparsecc.graph.fx import fold, linear, state
from sparsecc.graph.fx.layers import HEIGHT, Layer, arguments, aten, match, stored
from sparsecc.graph.fx.tensors import assign, free_name, read_node

_ASSERTIONS = ("aten._assert", "aten.sym_constrain_range", "aten._functional_assert", "aten._functional_sym")
_SPELT = {aten.conv1d.padding: aten.conv1d.default, aten.conv2d.padding: aten.conv2d.default}
_EVERYTHING = 2**63 - 1  # where torch.export ends a slice that has no end


def clean(module: GraphModule) -> None:
    """Bring a graph from torch.export into normal form, in place."""
    for step in (drop_assertions, _drop_input_writes, _drop_copies, _drop_empty_operands):
        step(module)
    for step in (_reshape_views, _spell_out_padding, linear.spell):
        step(module)
    for step in (fold.fold_constants, fold.fold_batch_norms, fold.fold_added_biases, _separate_biases):
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


def lift_lines(layer: Layer) -> Node:
    """conv(x)  ->  squeeze(conv(unsqueeze(x))), for an operator of images to take the place of one along lines; the unsqueezed x."""
    node, graph = layer.node, layer.node.graph
    with graph.inserting_before(node):
        image = graph.call_function(aten.unsqueeze.default, (layer.x, HEIGHT))
    image.meta["val"] = layer.x.meta["val"].unsqueeze(HEIGHT)
    with graph.inserting_after(node):
        line = graph.call_function(aten.squeeze.dim, (node, HEIGHT))
    line.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(line, delete_user_cb=lambda user: user is not line)
    node.meta["val"] = node.meta["val"].unsqueeze(HEIGHT)
    return image


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


def refuse_input_writes(module: GraphModule) -> None:
    """Raises ModelError for a model that writes into its inputs, where somebody may wait for that: a cache that is passed to it."""
    for node in module.graph.find_nodes(op="call_function", target=aten.copy_.default):
        if node.args[0].op == "placeholder":
            raise ModelError(f"the model writes into its input {node.args[0].name!r}; make it a buffer of the model, or return it")


def _drop_copies(module: GraphModule) -> None:
    written = state.written(module)  # what is copied may be written afterwards, through any of its views
    for node in list(module.graph.nodes):
        if node.op == "call_function" and _copies_nothing(node) and (node.target is aten.slice.Tensor or not written):
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


def _drop_empty_operands(module: GraphModule) -> None:
    """cat([[], x]) → x: torch joins a vector without elements with anything, and a past of no tokens adds nothing."""
    for node in module.graph.find_nodes(op="call_function", target=aten.cat.default):
        operands, dim = node.args[0], arguments(node)["dim"]
        kept = [operand for operand in operands if not _adds_nothing(operand.meta["val"], dim)]
        if not kept or len(kept) == len(operands):
            continue
        if len(kept) == 1 and kept[0].meta["val"].dtype == node.meta["val"].dtype:
            node.replace_all_uses_with(kept[0])
            module.graph.erase_node(node)
        else:
            node.args = (kept, dim)


def _adds_nothing(value: Tensor, dim: int) -> bool:
    sizes = tuple(value.shape)
    return sizes == (0,) or (isinstance(sizes[dim], int) and sizes[dim] == 0)


def _reshape_views(module: GraphModule) -> None:
    """view → reshape: attention lays its output out as its device, its mask and its gradients like, in another way than it was traced."""
    for node in module.graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default


def _spell_out_padding(module: GraphModule) -> None:
    """padding='same' as numbers, where it is the same on both sides."""
    for node in module.graph.nodes:
        spelt = _SPELT.get(node.target) if node.op == "call_function" else None
        layer = match(node) if spelt is not None else None
        if spelt is not None and isinstance(layer, Layer) and layer.geometry and layer.geometry.padding[:2] == layer.geometry.padding[2:]:
            sides = layer.geometry.padding[1:2] if spelt is aten.conv1d.default else layer.geometry.padding[:2]
            given = arguments(node) | {"padding": list(sides)}
            node.target = spelt
            node.args, node.kwargs = tuple(given[argument.name] for argument in spelt._schema.arguments), {}


def _separate_biases(module: GraphModule) -> None:
    """Each layer has a bias of its own, so that it can change alone; in training they are several parameters then."""
    reads = list(module.graph.find_nodes(op="get_attr"))
    readers = Counter(id(stored(read)) for read in reads for _ in read.users)
    for node in list(module.graph.nodes):
        layer = match(node)
        bias = None if layer is None else stored(layer.bias)
        if layer is None or layer.bias is None or bias is None or readers[id(bias)] < 2:
            continue
        name = free_name(module, str(layer.bias.target))
        assign(module, name, bias.clone(), trainable=bias.requires_grad)
        node.replace_input_with(layer.bias, read_node(module, node, name))
        readers[id(bias)] -= 1


def _drop_unread(module: GraphModule) -> None:
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, _ in held:
        if name not in read:
            path, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(path), leaf)
