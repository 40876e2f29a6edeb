"""The tensors of a graph module by their dotted names: putting, reading, finding free names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sparsecc.graph.fx.layers import aten, stored, transposed


def assign(module: nn.Module, name: str, tensor: Tensor, *, trainable: bool, learnt: bool = False) -> None:
    """Put a tensor at a dotted name, making the modules on the way: as a parameter when it can be trained or was learnt, and in the place
    of a parameter; else as a buffer. What was never learnt is a constant to passes."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    trained = (trainable or learnt or leaf in module._parameters) and tensor.is_floating_point()
    value = nn.Parameter(tensor.detach(), requires_grad=trainable) if trained else tensor.detach()
    if leaf in (module._parameters if trained else module._buffers):
        setattr(module, leaf, value)  # in its old place in the order
        return
    if hasattr(module, leaf):
        delattr(module, leaf)
    module.register_parameter(leaf, value) if isinstance(value, nn.Parameter) else module.register_buffer(leaf, value)


def free_name(module: nn.Module, name: str) -> str:
    """`name`, or `name_1`, `name_2`, ... : the first at which the module holds nothing."""
    path, leaf = _free_path(module, name)
    return next(candidate for candidate in _numbered(leaf, path) if not holds(module, candidate))


def free_prefix(module: nn.Module, name: str, leaves: tuple[str, ...]) -> str:
    """`name`, or `name_1`, ... : the first below which all `leaves` are free."""
    path, leaf = _free_path(module, name)
    tries = _numbered(leaf, path)
    return next(prefix for prefix in tries if not any(holds(module, f"{prefix}.{below}") for below in leaves))


def _free_path(module: nn.Module, name: str) -> tuple[str, str]:
    """What is before the last dot, with a number at each part where something stands that is no module, and the last part."""
    *parts, leaf = name.split(".")
    path = ""
    for part in parts:
        path = next(candidate for candidate in _numbered(part, path) if not _blocks(module, candidate))
    return path, leaf


def _numbered(leaf: str, path: str) -> Iterator[str]:
    name = f"{path}.{leaf}" if path else leaf
    yield name
    yield from (f"{name}_{i}" for i in itertools.count(1))


def read_node(module: GraphModule, before: Node, name: str) -> Node:
    """A new get_attr node for the tensor at `name`, just before a node."""
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(name)
    node.meta["val"] = stored(node)
    return node


def give(module: GraphModule, user: Node, read: Node, tensor: Tensor, name: str) -> Node:
    """A tensor for one node in the place of that which `read` gives it, directly or through its transpose; other readers keep the old one.
    name: of the new one, where the old one stays. Answers with the node that reads it."""
    old, path = stored(read), next(source for source in user.all_input_nodes if source is read or transposed(source) is read)
    assert old is not None
    tensor = tensor.to(old).contiguous()
    same = [node for node in module.graph.find_nodes(op="get_attr") if node.target == read.target]
    if same == [read] and len(read.users) == 1 and len(path.users) == 1:
        assign(module, str(read.target), tensor, trainable=old.requires_grad)
        return read
    name = free_name(module, name)
    own = tensor if path is read else tensor.T.contiguous()
    assign(module, name, own, trainable=old.requires_grad, learnt=isinstance(old, nn.Parameter))
    new = read_node(module, user, name)
    user.replace_input_with(path, new)
    for node in dict.fromkeys((path, read)):
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()
    return new


def order_of(node: Node) -> Tensor | None:
    """The stored order in which a node gathers."""
    return stored(node.args[2]) if node.target is aten.index_select.default else None


def gathered(module: GraphModule, x: Node, order: Tensor, name: str) -> Node:
    """x with its last axis in another order, as a node makes it that may be there already. name: of the order, where it is new."""
    for user in x.users:
        known = order_of(user)
        if known is not None and torch.equal(known.cpu(), order.cpu()):
            return user
    before = x.next
    while before.op == "placeholder":
        before = before.next
    name = free_name(module, name)
    assign(module, name, order.to(x.meta["val"].device), trainable=False)
    index = read_node(module, before, name)
    with module.graph.inserting_before(before):
        node = module.graph.call_function(aten.index_select.default, (x, x.meta["val"].dim() - 1, index))
    node.meta["val"] = x.meta["val"].contiguous()
    return node


def holds(module: Any, name: str) -> bool:
    """Whether something stands at a name, or something that is no module on the way there."""
    for part in name.split("."):
        if not isinstance(module, nn.Module):
            return True
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _blocks(module: nn.Module, name: str) -> bool:
    """Whether nothing can be held below a name, because something stands there that is no module."""
    return holds(module, f"{name}.")  # no module holds anything without a name
