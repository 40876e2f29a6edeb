"""What has a kernel of its own beside the layers with packed weights: attention of few queries, and the norms before our layers.

Each row names the kernel's file, the operator, and how torch does it; all for the sizes of one spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from sparsecc.codegen.cuda import attention, norm, operator
from sparsecc.codegen.cuda.kernel import AttentionSpec, NormSpec
from sparsecc.codegen.cuda.kernels.decode_attention import ROWS
from sparsecc.forms import dtype_of
from sparsecc.graph.fx.layers import aten

AloneSpec = AttentionSpec | NormSpec
_DTYPES = (torch.bfloat16, torch.float16)
_MOST_ROWS = 64  # of a norm; with more there are no weights to wait for


@dataclass(frozen=True)
class Alone:
    """kernel: its file.  operator: called with the inputs and a plan's key.  torch: of the spec and the inputs.  example: inputs, on a
    device.  cold: which of the inputs a model has in memory rather than in a cache."""

    kernel: str
    operator: Any
    torch: Callable[..., Tensor]
    example: Callable[..., tuple[Tensor | None, ...]]
    cold: tuple[int, ...]


KINDS: dict[type[Any], Alone] = {
    AttentionSpec: Alone("decode_attention", attention.attention_cuda, attention.through_torch, attention.example, (1, 2)),
    NormSpec: Alone("rms_norm", norm.rms_norm_cuda, norm.through_torch, norm.example, (1,)),
}


def found(graph: Graph) -> Iterator[tuple[Node, AloneSpec, tuple[Any, ...]]]:
    """Nodes, what they are, and the inputs of the operator."""
    for node in list(graph.nodes):
        match = _attention(node) or _norm(node)
        if match is not None:
            spec, inputs = match
            yield node, spec, inputs


def calls(graph: Graph) -> list[Node]:
    """Of these operators."""
    operators = [kind.operator for kind in KINDS.values()]
    return [node for node in graph.nodes if node.target in operators]


def _attention(node: Node) -> tuple[AttentionSpec, tuple[Any, ...]] | None:
    if node.target is not aten.scaled_dot_product_attention.default:
        return None
    q, k, v, mask, dropout, causal = (*node.args, *(None, 0.0, False)[len(node.args) - 3 :])
    values = [operand.meta["val"] for operand in (q, k, v, mask) if isinstance(operand, Node)]
    whole = len(values) == (3 if mask is None else 4) and _static(values) and all(value.dim() == 4 for value in values[:3])
    if dropout or causal or not whole:
        return None
    (batch, heads, queries, depth), (kv_batch, kv_heads, keys, _) = values[0].shape, values[1].shape
    grouped = heads == kv_heads or (node.kwargs.get("enable_gqa", False) and heads % kv_heads == 0)
    alike = values[1].shape == values[2].shape == (batch, kv_heads, keys, depth) and len({value.dtype for value in values[:3]}) == 1
    if not (grouped and alike and kv_batch == batch and values[0].dtype in _DTYPES and heads // kv_heads * queries <= ROWS):
        return None
    if mask is not None and not _one_for_all(values[3], queries, keys):
        return None
    scale: Any = node.kwargs.get("scale")
    scale = depth**-0.5 if scale is None else float(scale)
    spec = AttentionSpec(batch, heads, kv_heads, queries, keys, depth, scale, dtype_of(values[0]), mask is not None)
    return spec, (q, k, v, mask)


def _one_for_all(mask: Tensor, queries: int, keys: int) -> bool:
    """Whether a mask is the same for all sequences and heads."""
    *others, rows, columns = mask.shape if mask.dim() > 1 else (0, 0)
    return mask.dtype == torch.bool and all(size == 1 for size in others) and rows in (1, queries) and columns == keys


def _norm(node: Node) -> tuple[NormSpec, tuple[Any, ...]] | None:
    """Only where nothing but our layers reads it: others may be computed together with what is around them."""
    if node.target is not aten.rms_norm.default or len(node.args) != 4:
        return None
    x, shape, weight, eps = node.args
    if not (isinstance(x, Node) and isinstance(weight, Node) and isinstance(shape, list) and len(shape) == 1 and isinstance(eps, float)):
        return None
    values = [x.meta["val"], weight.meta["val"]]
    if not _static(values) or values[0].dtype not in _DTYPES or values[1].dtype != values[0].dtype:
        return None
    rows = values[0].numel() // max(1, values[1].numel())
    ours = operator.calls(node.graph)
    if not 0 < rows <= _MOST_ROWS or not node.users or not all(user in ours and user.args[0] is node for user in node.users):
        return None
    return NormSpec(rows, values[1].numel(), eps, dtype_of(values[0])), (x, weight)


def _static(values: list[Tensor]) -> bool:
    return all(isinstance(size, int) for value in values for size in value.shape)
