"""Buffers that a model writes when it runs, such as a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sparsecc.graph.fx.layers import aten, stored


def written(module: GraphModule) -> dict[str, Tensor]:
    """By name, the buffers that a graph writes."""
    found = {}
    for node in module.graph.nodes:
        target = node.args[0] if _writes(node) else None
        if isinstance(target, Node) and target.op == "get_attr":
            tensor = stored(target)
            assert tensor is not None
            found[str(target.target)] = tensor
    return found


def _writes(node: Node) -> bool:
    return node.op == "call_function" and (node.target is aten.copy_.default or str(node.target).split(".")[1:2] in _IN_PLACE)


_IN_PLACE = (["index_copy_"], ["index_put_"], ["scatter_"], ["add_"])  # what `codegen.cuda.lower` makes of functional operators


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """What the block writes into buffers is taken back."""
    tensors = written(module).values() if isinstance(module, GraphModule) else module.buffers()
    with _restored(tensors):
        yield


@contextmanager
def _restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    before = [(tensor, tensor._version, tensor.clone()) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, version, value in before:
            if tensor._version != version:
                tensor.copy_(value)
