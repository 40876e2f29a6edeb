"""The tensors of a graph module by their dotted names: putting, reading, finding free names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sparsecc.graph.fx_layers import stored


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
