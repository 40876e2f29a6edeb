"""Buffers that a model writes when it runs, such as a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn, no_grad
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.nn.parameter import is_lazy

from sparsecc.graph.fx.layers import arguments, aten, stored
from sparsecc.ops.base import CALLS, TORCH_NAMESPACE

IN_PLACE: dict[Any, Any] = {  # of functional operators; each writes its first argument
    aten.index_copy.default: aten.index_copy_.default,
    aten.index_put.default: aten.index_put_.default,
    aten.scatter.src: aten.scatter_.src,
    aten.add.Tensor: aten.add_.Tensor,
}
_WRITERS = (aten.copy_.default, *IN_PLACE.values())


def written(module: GraphModule) -> dict[str, Tensor]:
    """By name, the buffers that a graph writes."""
    found = {}
    for node in module.graph.nodes:
        target = node.args[0] if node.op == "call_function" and node.target in _WRITERS else None
        if isinstance(target, Node) and target.op == "get_attr":
            tensor = stored(target)
            assert tensor is not None
            found[str(target.target)] = tensor
    return found


def count(module: GraphModule, read: Node, after: Node) -> None:
    """Let a graph add one to a counter, behind a node: as torch.export writes it. read: the counter's node."""
    with module.graph.inserting_after(after):
        more = module.graph.call_function(aten.add.Tensor, (read, 1))
    with module.graph.inserting_after(more):
        written = module.graph.call_function(aten.copy_.default, (read, more))
    more.meta["val"] = written.meta["val"] = read.meta["val"]


def counters(module: nn.Module) -> list[Tensor]:
    """The counters of calls that operators of ours read in a graph, or in the graphs within a module."""
    graphs = [part.graph for part in module.modules() if isinstance(part, GraphModule)]
    found = [stored(arguments(node).get(CALLS)) for graph in graphs for node in graph.nodes if _is_ours(node)]
    return list({id(counter): counter for counter in found if counter is not None}.values())


def counts(node: Node) -> bool:
    """Whether a node writes such a counter."""
    read = node.args[0] if node.target is aten.copy_.default else None
    return isinstance(read, Node) and any(_is_ours(user) and arguments(user).get(CALLS) is read for user in read.users)


def _is_ours(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target.namespace == TORCH_NAMESPACE


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """What the block writes into buffers, or puts in their places, is taken back. In the block counters of calls stand at one: attention
    that is dense in the first of some calls is seen as it is in the others."""
    names = written(module) if isinstance(module, GraphModule) else None
    before = [
        (owner, name, tensor, tensor._version, tensor.clone())
        for path, owner in module.named_modules()
        for name, tensor in owner._buffers.items()
        if tensor is not None and not is_lazy(tensor) and not tensor.is_inference()
        and (names is None or f"{path}.{name}".lstrip(".") in names)
    ]  # fmt: skip
    with no_grad():
        for counter in counters(module):
            counter.fill_(1)
    try:
        yield
    finally:
        for owner, name, tensor, version, value in before:
            if tensor._version != version:
                tensor.copy_(value)
            owner._buffers[name] = tensor
