"""Putting other tensors and other operators in the places of sites, in an aten graph. What fits there, `Graph` has checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from sparsecc.graph.channels import Channels
from sparsecc.graph.fx import channels as following
from sparsecc.graph.fx import cleanup, state
from sparsecc.graph.fx.layers import Layer, OperatorLayer, aten, match, stored
from sparsecc.graph.fx.sites import inputs_of, mask_of, node_named
from sparsecc.graph.fx.tensors import assign, free_name, free_prefix, gathered, give, read_node
from sparsecc.graph.sites import Attention, Conv1d, Linear, Site, WeightSite
from sparsecc.ops.base import Operator


def layer_of(module: GraphModule, site: Site) -> Layer:
    """A dense layer's nodes."""
    layer = match(node_of(module, site))
    assert isinstance(layer, Layer)
    return layer


def node_of(module: GraphModule, site: Site) -> Node:
    node = node_named(module, site.name)
    assert node is not None
    return node


def set_weight(module: GraphModule, site: WeightSite, weight: Tensor) -> Node:
    """Of any shape. Answers with the node that reads it."""
    layer = layer_of(module, site)
    return give(module, layer.node, layer.weight, weight.T if layer.transposed else weight, f"{site.name}.weight")


def set_bias(module: GraphModule, site: WeightSite, bias: Tensor) -> Node:
    """Of any size. Answers with the node that reads it."""
    layer = layer_of(module, site)
    assert layer.bias is not None
    return give(module, layer.node, layer.bias, bias, f"{site.name}.bias")


def gather_inputs(module: GraphModule, site: Linear, order: Tensor) -> None:
    layer = layer_of(module, site)
    layer.node.replace_input_with(layer.x, gathered(module, layer.x, order, f"{site.name}.order"))
    module.recompile()
    set_weight(module, site, site.weight[:, order.to(site.weight.device)])


def narrow(module: GraphModule, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    following.resize(channels.handle, channels.units, len(units))
    changed = {set_weight(module, channels.reader, weight)}
    if bias is not None:
        changed.add(set_bias(module, channels.reader, bias))
    for writer in channels.writers:
        rows = channels.rows(writer, units)
        changed.add(set_weight(module, writer, writer.weight[rows]))
        if writer.bias is not None:
            changed.add(set_bias(module, writer, writer.bias[rows]))
    following.refresh(module, changed)
    module.recompile()


def replace(module: GraphModule, site: Site, op: Operator) -> None:
    node, call = node_of(module, site), op.torch_call(site.name)
    layer = match(node)
    prefix = free_prefix(module, site.name, tuple(op.tensors))
    trainable = op.trainable and layer is not None and _is_trained(layer)
    reads = {name: _store(module, node, f"{prefix}.{name}", tensor, trainable) for name, tensor in op.tensors.items()}
    bias = None if layer is None else _bias(module, layer, prefix, op.bias)
    if isinstance(site, Attention):
        _keep_layout(module, node, site)
    inputs = _inputs(site, layer, node)
    if op.counter is not None:
        state.count(module, reads[op.counter], after=node)
    args = (*op.torch_arguments(inputs, [*reads.values()], bias), *call.options)
    _put(module, node, call.target, _masked(call.target, args, site, node))


def _is_trained(layer: Layer | OperatorLayer) -> bool:
    weight = stored(layer.weight if isinstance(layer, Layer) else layer.tensors[0])
    assert weight is not None
    return weight.requires_grad


def _inputs(site: Site, layer: Layer | OperatorLayer | None, node: Node) -> Sequence[Node]:
    """What enters the operator: for lines, images of height 1."""
    return (cleanup.lift_lines(layer),) if isinstance(site, Conv1d) and isinstance(layer, Layer) else inputs_of(node)


def _masked(target: Any, args: tuple[Any, ...], site: Site, node: Node) -> tuple[Any, ...]:
    """The arguments with the mask of an attention where its operator takes one."""
    mask = mask_of(node) if isinstance(site, Attention) else None
    if mask is None:
        return args
    schema = target._schema.arguments
    at = [argument.name for argument in schema].index("mask")
    before = (*args, *(argument.default_value for argument in schema[len(args) : at]))
    return (*before[:at], mask, *before[at + 1 :])


def _keep_layout(module: GraphModule, node: Node, site: Attention) -> None:
    """Views that follow an attention see its heads as they lay: an operator has tokens outermost."""
    if node.meta["val"].stride(2) != site.head_dim:
        return
    with module.graph.inserting_after(node):
        contiguous = module.graph.call_function(aten.contiguous.default, (node,))
    contiguous.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(contiguous, delete_user_cb=lambda user: user is not contiguous)


def _bias(module: GraphModule, layer: Layer | OperatorLayer, prefix: str, bias: Tensor | None) -> Node | None:
    """The node of the operator's bias: the layer's own when it is that tensor still."""
    old = stored(layer.bias)
    if bias is None:
        return None
    if old is not None and old.data_ptr() == bias.data_ptr() and old.shape == bias.shape:
        return layer.bias
    return _store(module, layer.node, free_name(module, f"{prefix}.bias"), bias, old is None or old.requires_grad)


def _store(module: GraphModule, before: Node, name: str, tensor: Tensor, trainable: bool) -> Node:
    assign(module, name, tensor, trainable=trainable)
    return read_node(module, before, name)


def _put(module: GraphModule, node: Node, target: Any, args: tuple[Any, ...]) -> None:
    """A call in the place of a site's node."""
    with module.graph.inserting_before(node):
        replacement = module.graph.call_function(target, args)
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    module.graph.erase_node(node)
    cleanup.sweep(module)
