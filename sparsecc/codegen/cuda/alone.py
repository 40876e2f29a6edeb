"""What has a kernel of its own beside the layers with packed weights: attention of few queries, and the norms before our layers.

Each row names the kernel's file, the operator, and how torch does it; all for the sizes of one spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from sparsecc.codegen.cuda import attention, blocks, norm, operator
from sparsecc.codegen.cuda.chosen import Chosen
from sparsecc.codegen.cuda.kernel import AttentionSpec, BlockAttentionSpec, NormSpec
from sparsecc.codegen.cuda.kernels.block_attention import BLOCKS
from sparsecc.codegen.cuda.kernels.decode_attention import ROWS
from sparsecc.forms import dtype_of
from sparsecc.graph.fx import state
from sparsecc.graph.fx.layers import arguments, aten, stored
from sparsecc.ops.block_attention.torch import restore
from sparsecc.ops.dynamic_block_attention.torch import map_of

AloneSpec = AttentionSpec | BlockAttentionSpec | NormSpec
Match = tuple[AloneSpec, tuple[Any, ...]]
_DTYPES = (torch.bfloat16, torch.float16)
_MOST_ROWS = 64  # of a norm; with more there are no weights to wait for


@dataclass(frozen=True)
class Alone:
    """kernel: its file.  operator: called with the inputs and a plan's key.  torch: of the spec and the inputs, what is timed beside it.
    meaning: what it computes, for any input.  example: inputs, on a device, before those that are stored.  cold: which of the inputs are
    too large for a cache."""

    kernel: str
    operator: Any
    torch: Callable[..., Tensor]
    meaning: Callable[..., Tensor]
    example: Callable[..., tuple[Tensor | None, ...]]
    cold: tuple[int, ...] = ()


KINDS: dict[type[Any], Alone] = {
    AttentionSpec: Alone(
        "decode_attention", attention.attention_cuda, attention.through_torch, attention.meaning, attention.example, (1, 2)
    ),
    BlockAttentionSpec: Alone("block_attention", blocks.block_attention_cuda, blocks.through_torch, blocks.meaning, blocks.example),
    NormSpec: Alone("rms_norm", norm.rms_norm_cuda, norm.through_torch, norm.through_torch, norm.example),
}


def found(module: GraphModule) -> Iterator[tuple[Node, AloneSpec, tuple[Any, ...]]]:
    """Nodes, what they are, and the inputs of the operator: nodes, tensors that are to be stored, or lists that are made in each call."""
    written = state.written(module)
    for node in list(module.graph.nodes):
        match: Match | None = None
        if node.target is aten.scaled_dot_product_attention.default:
            match = _attention(arguments(node))
        elif node.target is torch.ops.sparsecc.block_attention.default:
            match = _block_attention(arguments(node))
        elif node.target is torch.ops.sparsecc.dynamic_block_attention.default:
            match = _dynamic_attention(arguments(node))
        elif node.target is aten.rms_norm.default and _is_ours_alone(node):
            match = _norm(arguments(node), written)
        if match is not None:
            yield node, *match


def calls(graph: Graph) -> list[Node]:
    """Of these operators."""
    operators = [kind.operator for kind in KINDS.values()]
    return [node for node in graph.nodes if node.target in operators]


def _attention(given: dict[str, Any]) -> Match | None:
    """K and V that do not lie as the kernel reads them would be copied in each call."""
    inputs = q, k, v, mask = given["query"], given["key"], given["value"], given["attn_mask"]
    values = [operand.meta["val"] for operand in inputs if isinstance(operand, Node)]
    whole = len(values) == (3 if mask is None else 4) and _static(values) and all(value.dim() == 4 for value in values[:3])
    if given["dropout_p"] or given["is_causal"] or not whole or isinstance(given["scale"], Node):
        return None
    (batch, heads, queries, depth), kv_heads, keys = values[0].shape, *values[1].shape[1:3]
    alike = values[1].shape == values[2].shape == (batch, kv_heads, keys, depth) and len({value.dtype for value in values[:3]}) == 1
    lies = all(value.is_contiguous() for value in values[1:3])
    if not (alike and lies and values[0].dtype in _DTYPES and min(batch, heads, kv_heads, queries, keys) > 0):
        return None
    grouped = heads == kv_heads or (given["enable_gqa"] and heads % kv_heads == 0)
    if not grouped or heads // kv_heads * queries > ROWS or (mask is not None and not attention.is_one_for_all(values[3], queries, keys)):
        return None
    scale = depth**-0.5 if given["scale"] is None else float(given["scale"])
    return AttentionSpec(batch, heads, kv_heads, queries, keys, depth, scale, dtype_of(values[0]), mask is not None), (q, k, v, mask)


def _block_attention(given: dict[str, Any]) -> Match | None:
    inputs = [given[name] for name in "qkv"]
    values = [operand.meta["val"] for operand in inputs]
    mask = given["mask"]
    if not _taken(values) or (mask is not None and not blocks.hides_keys(mask.meta["val"], values[0].shape[0], values[0].shape[2])):
        return None
    orders, keep = (None if given[name] is None else stored(given[name]) for name in ("orders", "keep"))
    if keep is None or given["block"] not in BLOCKS:
        return None
    block_map = restore(orders, keep, given["grid"], given["text_first"], given["block"], given["causal"])
    (batch, heads, tokens, depth), kv_heads = values[0].shape, values[1].shape[1]
    spec = BlockAttentionSpec(
        *(batch, heads, kv_heads, tokens, depth, given["scale"], given["block"]),
        *(dtype_of(values[0]), given["causal"], orders is not None, blocks.tokens_first(*values)),
        masked=mask is not None,
        int8=given["precision"] == "int8",
    )
    return spec, (*inputs, *blocks.pack(block_map, batch), mask)


def _dynamic_attention(given: dict[str, Any]) -> Match | None:
    inputs = q, k, _ = [given[name] for name in "qkv"]
    values = [operand.meta["val"] for operand in inputs]
    if given["block"] not in BLOCKS or not _taken(values):
        return None
    found = map_of(given, stored)
    (batch, heads, tokens, depth), kv_heads, scale = values[0].shape, values[1].shape[1], given["scale"]
    sizes = (batch, heads, kv_heads, tokens, depth, scale, found.block)
    spec = BlockAttentionSpec(*sizes, dtype_of(values[0]), found.causal, tokens_first=blocks.tokens_first(*values))
    return spec, (*inputs, Chosen.of(q, k, found, scale, given["calls"]), None, None)


def _taken(values: list[Tensor]) -> bool:
    """Whether the kernel takes such q, k and v."""
    alike = len({value.dtype for value in values}) == 1 and values[0].shape[3] == values[2].shape[3]
    return _static(values) and values[0].dtype in _DTYPES and alike


def _is_ours_alone(node: Node) -> bool:
    """Whether nothing but our layers reads it: others may be computed together with what is around them."""
    ours = set(operator.calls(node.graph))
    return bool(node.users) and all(user in ours and user.args[0] is node for user in node.users)


def _norm(given: dict[str, Any], written: dict[str, Tensor]) -> Match | None:
    """The weight has to be stored: it is read before the kernel before has ended."""
    x, weight, eps = given["input"], given["weight"], given["eps"]
    constant = isinstance(weight, Node) and weight.op == "get_attr" and str(weight.target) not in written
    if not (isinstance(x, Node) and constant and isinstance(eps, float) and len(given["normalized_shape"]) == 1):
        return None
    values = [x.meta["val"], weight.meta["val"]]
    if not _static(values) or values[0].dtype not in _DTYPES or values[1].dtype != values[0].dtype or not values[1].numel():
        return None
    rows = values[0].numel() // values[1].numel()
    return (NormSpec(rows, values[1].numel(), eps, dtype_of(values[0])), (x, weight)) if 0 < rows <= _MOST_ROWS else None


def _static(values: list[Tensor]) -> bool:
    return all(isinstance(size, int) for value in values for size in value.shape)
