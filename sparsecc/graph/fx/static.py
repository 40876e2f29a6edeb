"""What becomes simpler in a graph once every shape is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from sparsecc.graph.fx import cleanup
from sparsecc.graph.fx.layers import arguments, aten, stored
from sparsecc.graph.fx.signature import output_nodes

_NEVER = -1e4  # a mask value at or below this takes the key out


def fold_shapes(module: GraphModule) -> None:
    """Fold what depends on sizes only, and say of a constant attention mask what it means: nothing, or causal."""
    cleanup.clean(module)
    for node in module.graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        _simplify_mask(node)
    _return_tensors(module)
    cleanup.sweep(module)


def _simplify_mask(node: Node) -> None:
    given = arguments(node)
    mask = stored(given["attn_mask"])
    if mask is None or given["is_causal"]:
        return
    keep = _kept(mask)
    if keep is None:
        return
    queries, keys = given["query"].meta["val"].shape[-2], given["key"].meta["val"].shape[-2]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=keep.device).tril()
    if bool(keep.all()):
        _set(node, attn_mask=None)
    elif bool((keep == causal).all()):
        _set(node, attn_mask=None, is_causal=True)


def _return_tensors(module: GraphModule) -> None:
    """A flat tuple of the output tensors; the constants among a model's outputs are known without running it."""
    outputs = tuple(output_nodes(module))
    next(iter(module.graph.find_nodes(op="output"))).args = (outputs,)
    codegen: Any = module.graph._codegen
    codegen.pytree_info = codegen.pytree_info._replace(out_spec=pytree.tree_structure(tuple(range(len(outputs)))))


def _kept(mask: Tensor) -> Tensor | None:
    """bool, true where a key is attended to; None for a mask that adds other values than 0 and −∞."""
    if mask.dtype == torch.bool:
        return mask
    keep = mask == 0
    return keep if bool((keep | (mask <= _NEVER)).all()) else None


def _set(node: Node, **changes: Any) -> None:
    given = arguments(node) | changes
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    node.args = tuple(given[argument.name] for argument in schema if not argument.kwarg_only)
    node.kwargs = {argument.name: given[argument.name] for argument in schema if argument.kwarg_only}
