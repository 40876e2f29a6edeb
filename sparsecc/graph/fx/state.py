"""Buffers that a model writes when it runs, such as a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.parameter import is_lazy

from sparsecc.graph.fx.layers import aten, stored

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


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """What the block writes into buffers, or puts in their places, is taken back."""
    names = written(module) if isinstance(module, GraphModule) else None
    before = [
        (owner, name, tensor, tensor._version, tensor.clone())
        for path, owner in module.named_modules()
        for name, tensor in owner._buffers.items()
        if tensor is not None and not is_lazy(tensor) and not tensor.is_inference()
        and (names is None or f"{path}.{name}".lstrip(".") in names)
    ]  # fmt: skip
    try:
        yield
    finally:
        for owner, name, tensor, version, value in before:
            if tensor._version != version:
                tensor.copy_(value)
            owner._buffers[name] = tensor
