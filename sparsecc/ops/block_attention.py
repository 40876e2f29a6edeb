"""block_attention: softmax(scale · q kᵀ) v over the kept blocks of a reordered sequence; q, k and v arrive in the model's token order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.ops.base import Operator, TorchCall


@dataclass(frozen=True)
class BlockAttention(Operator):
    """Stands in the place of an Attention site without mask, whose q, k and v are [batch, heads, tokens, head_dim]."""

    takes: ClassVar[tuple[str, ...]] = ("Attention",)

    map: BlockMap
    scale: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"orders": self.map.orders, "keep": self.map.keep}

    def torch_arguments(self, inputs: Sequence[Any], tensors: Sequence[Any], bias: Any) -> tuple[Any, ...]:
        return (*inputs, *tensors)

    def torch_call(self, name: str) -> TorchCall:
        grid = self.map.grid
        options = ([*grid.axes, grid.text_tokens], grid.text_first, self.map.block, self.scale, name)
        return TorchCall(torch.ops.sparsecc.block_attention.default, options)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference(q, k, v, self.map, self.scale)


def restore(orders: Tensor, keep: Tensor, grid: Sequence[int], text_first: bool, block: int) -> BlockMap:
    """The map that was flattened into an operator's arguments. Raises ValueError when they contradict each other."""
    frames, height, width, text = grid
    return BlockMap(Grid(frames, height, width, text, text_first), block, orders, keep)


def reference(q: Tensor, k: Tensor, v: Tensor, block_map: BlockMap, scale: float) -> Tensor:
    """What block_attention means: each block of queries attends to the keys of its kept blocks."""
    output = _output_like(v)
    for head, queries, keys, p in _probabilities(q, k, block_map, scale):
        output[:, head, queries] = p @ v[:, head, keys]
    return output


def relative_error(q: Tensor, k: Tensor, v: Tensor, block_map: BlockMap, scale: float) -> float:
    """‖y − y'‖ / ‖y‖ of dense and block-sparse attention."""
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
    whole = dense.norm()
    return float((reference(q, k, v, block_map, scale) - dense).norm() / whole) if whole else 0.0


def _output_like(v: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] that lies in memory as [batch, tokens, heads, head_dim]: what torch's own attention returns where
    q comes from a projection, so that what a model does to it next is a view still."""
    batch, heads, tokens, head_dim = v.shape
    return v.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


def _probabilities(q: Tensor, k: Tensor, block_map: BlockMap, scale: float) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(head, queries, keys, their probabilities [batch, queries, keys]) for each head and block of queries."""
    precise = torch.promote_types(q.dtype, torch.float32)
    for head, queries, keys in block_map.rows():
        scores = scale * q[:, head, queries] @ k[:, head, keys].transpose(1, 2)
        yield head, queries, keys, scores.softmax(-1, dtype=precise).to(q.dtype)


_MAP = "Tensor orders, Tensor keep, int[] grid, bool text_first, int block, float scale"


@torch.library.custom_op("sparsecc::block_attention", mutates_args=(), schema=f"(Tensor q, Tensor k, Tensor v, {_MAP}, str name) -> Tensor")
def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor,
    keep: Tensor,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    name: str,
) -> Tensor:
    """orders, keep: a BlockMap's.  grid: frames, height, width, text tokens.  name: the site's, to find a kernel by."""
    block_map = restore(orders, keep, grid, text_first, block)
    for x in (q, k, v):
        _check_shape(x, block_map.heads, block_map.grid.tokens, name)
    return reference(q, k, v, block_map, scale)


@block_attention.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor,
    keep: Tensor,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    name: str,
) -> Tensor:
    for x in (q, k, v):
        _check_shape(x, len(orders), math.prod(grid[:3]) + grid[3], name)
    return _output_like(v)


def _check_shape(x: Tensor, heads: int, tokens: int, name: str) -> None:
    torch._check(x.dim() == 4, lambda: f"attention '{name}' takes [batch, heads, tokens, head_dim], not {tuple(x.shape)}")
    torch._check(x.shape[1] == heads, lambda: f"attention '{name}' has {heads} heads, its input {x.shape[1]}")
    torch._check(x.shape[2] == tokens, lambda: f"attention '{name}' is reordered for {tokens} tokens, it is given {x.shape[2]}")


@torch.library.custom_op(
    "sparsecc::block_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor q, Tensor k, Tensor v, {_MAP}) -> (Tensor, Tensor, Tensor)",
)
def block_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor,
    keep: Tensor,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dV = Pᵀ dO;  dS = P ∘ (dO Vᵀ − Σ over the row of P ∘ dO Vᵀ);  dQ = scale · dS K;  dK = scale · dSᵀ Q. P is computed again."""
    grad_q, grad_k, grad_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    for head, queries, keys, p in _probabilities(q, k, restore(orders, keep, grid, text_first, block), scale):
        of_output = grad[:, head, queries]
        of_p = of_output @ v[:, head, keys].transpose(1, 2)
        of_scores = scale * p * (of_p - (p * of_p).sum(-1, keepdim=True))
        grad_q[:, head, queries] = of_scores @ k[:, head, keys]
        grad_k[:, head].index_add_(1, keys, of_scores.transpose(1, 2) @ q[:, head, queries])
        grad_v[:, head].index_add_(1, keys, p.transpose(1, 2) @ of_output)
    return grad_q, grad_k, grad_v


@block_attention_backward.register_fake
def _backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.grid, ctx.text_first, ctx.block, ctx.scale, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gradients = torch.ops.sparsecc.block_attention_backward(grad, *ctx.saved_tensors, ctx.grid, ctx.text_first, ctx.block, ctx.scale)
    return *gradients, *[None] * 7


block_attention.register_autograd(_backward, setup_context=_setup_context)
