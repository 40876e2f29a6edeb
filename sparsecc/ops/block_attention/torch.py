"""block_attention: softmax(scale · q kᵀ) v over the kept blocks of a reordered sequence; q, k and v arrive in the model's token order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.attention.rounding import Precision, rounded_tokens, rounded_values
from sparsecc.ops.base import Operator, TorchCall


@dataclass(frozen=True)
class BlockAttention(Operator):
    """Stands in the place of an Attention site whose q, k and v are [batch, heads, tokens, head_dim]; the site's mask, if it has one, goes
    on to hide keys. grouped: whether several heads of q share one of k and v, as many each. precision: what q, k and v are rounded to; a
    compiler may multiply float32 where that is faster."""

    takes: ClassVar[tuple[str, ...]] = ("Attention",)

    map: BlockMap
    scale: float
    grouped: bool = False
    precision: Precision = "float32"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a graph stores for it, by the names of the operator's arguments. Without orders where tokens keep the model's."""
        orders = {} if self.map.orders is None else {"orders": self.map.orders}
        return {**orders, "keep": self.map.keep}

    def torch_arguments(self, inputs: Sequence[Any], tensors: Sequence[Any], bias: Any) -> tuple[Any, ...]:
        return (*inputs, *(tensors if self.map.orders is not None else (None, *tensors)))

    def torch_call(self, name: str) -> TorchCall:
        """The operator, and its arguments after q, k, v, orders (or None) and keep; a mask goes between causal and precision."""
        grid = self.map.grid
        options = ([*grid.axes, grid.text_tokens], grid.text_first, self.map.block, self.scale, name)
        if self.precision != "float32":
            options = (*options, self.map.causal, None, self.precision)
        elif self.map.causal:
            options = (*options, True)
        return TorchCall(torch.ops.sparsecc.block_attention.default, options)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return reference(q, k, v, self.map, self.scale, mask, self.precision)


def restore(orders: Tensor | None, keep: Tensor, grid: Sequence[int], text_first: bool, block: int, causal: bool) -> BlockMap:
    """The map that was flattened into an operator's arguments. Raises ValueError when they contradict each other."""
    frames, height, width, text = grid
    return BlockMap(Grid(frames, height, width, text, text_first), block, orders, keep, causal)


def reference(
    q: Tensor, k: Tensor, v: Tensor, block_map: BlockMap, scale: float, mask: Tensor | None = None, precision: str = "float32"
) -> Tensor:
    """What block_attention means: each block of queries attends to the keys of its kept blocks. mask: of anything that broadcasts to
    [batch, heads, queries, keys] in the model's order, bool (true where a key is seen) or added to the scores; a query that sees no key
    gets zeros. precision: what q, k and v are rounded to."""
    output, shared, v = output_like(q, v), q.shape[1] // v.shape[1], rounded_values(v, precision)
    for part in _parts(q, k, block_map, scale, mask, precision):
        output[:, part.head, part.queries] = part.p @ v[:, part.head // shared, part.keys]
    return output


def relative_error(q: Tensor, k: Tensor, v: Tensor, sparse: Tensor, scale: float, causal: bool = False) -> float:
    """‖y − y'‖ / ‖y‖ of dense and block-sparse attention. sparse: the output y' of the second."""
    shared = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(shared, 1) if shared > 1 else x for x in (k, v))
    dense = torch.nn.functional.scaled_dot_product_attention(q, keys, values, is_causal=causal, scale=scale)
    whole = dense.norm()
    return float((sparse - dense).norm() / whole) if whole else 0.0


def output_like(q: Tensor, v: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] that lies in memory as [batch, tokens, heads, head_dim]: what torch's own attention returns where
    q comes from a projection, so that what a model does to it next is a view still."""
    batch, heads, tokens, _ = q.shape
    return v.new_empty(batch, tokens, heads, v.shape[3]).transpose(1, 2)


class _Part(NamedTuple):
    """One block of queries of one head: token numbers in the model's order, q and k of these as they are multiplied, [batch, tokens,
    head_dim], and the probabilities [batch, queries, keys]."""

    head: int
    queries: Tensor
    keys: Tensor
    q: Tensor
    k: Tensor
    p: Tensor


def _parts(q: Tensor, k: Tensor, block_map: BlockMap, scale: float, mask: Tensor | None, precision: str) -> Iterator[_Part]:
    precise, shared = torch.promote_types(q.dtype, torch.float32), q.shape[1] // k.shape[1]
    places, q_head, k_head, at = block_map.places(), q[:, 0], k[:, 0], -1
    for head, queries, keys in block_map.rows():
        if head != at:
            q_head, k_head = (rounded_tokens(x, places[head], block_map.block, precision) for x in (q[:, head], k[:, head // shared]))
            at = head
        q_part, k_part = q_head[:, queries], k_head[:, keys]
        scores = scale * q_part @ k_part.transpose(1, 2)
        if block_map.causal:
            scores = scores.masked_fill(keys > queries[:, None], -torch.inf)
        if mask is not None:
            scores = _masked(scores, mask, head, queries, keys)
        p = scores.softmax(-1, dtype=precise).to(q.dtype)
        p = p if mask is None else p.masked_fill(scores.isneginf().all(-1, keepdim=True), 0)
        yield _Part(head, queries, keys, q_part, k_part, p)


def _masked(scores: Tensor, mask: Tensor, head: int, queries: Tensor, keys: Tensor) -> Tensor:
    """scores: [batch, queries, keys] of a head."""
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    mask = mask[:, head if mask.shape[1] > 1 else 0]
    mask = mask[:, queries] if mask.shape[1] > 1 else mask
    mask = mask[..., keys] if mask.shape[2] > 1 else mask
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


_MAP = "Tensor? orders, Tensor keep, int[] grid, bool text_first, int block, float scale"


@torch.library.custom_op(
    "sparsecc::block_attention",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_MAP}, str name, bool causal=False, Tensor? mask=None, str precision='float32') -> Tensor",
)
def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor | None,
    keep: Tensor,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    name: str,
    causal: bool = False,
    mask: Tensor | None = None,
    precision: str = "float32",
) -> Tensor:
    """orders, keep, causal: a BlockMap's.  mask: as in `reference`; without gradients.  grid: frames, height, width, text tokens.  name:
    the site's, to find a kernel by.  precision: of q, k and v; gradients are those at the rounded ones, which count as if they were not."""
    block_map = restore(orders, keep, grid, text_first, block, causal)
    check_shapes(q, k, v, block_map.heads, block_map.grid.tokens, name)
    return reference(q, k, v, block_map, scale, mask, precision)


@block_attention.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor | None,
    keep: Tensor,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    name: str,
    causal: bool = False,
    mask: Tensor | None = None,
    precision: str = "float32",
) -> Tensor:
    check_shapes(q, k, v, len(keep), math.prod(grid[:3]) + grid[3], name)
    return output_like(q, v)


def check_shapes(q: Tensor, k: Tensor, v: Tensor, heads: int, tokens: int, name: str) -> None:
    for x in (q, k, v):
        torch._check(x.dim() == 4, lambda x=x: f"attention '{name}' takes [batch, heads, tokens, head_dim], not {tuple(x.shape)}")
        torch._check(x.shape[2] == tokens, lambda x=x: f"attention '{name}' has a block map for {tokens} tokens, it is given {x.shape[2]}")
    torch._check(q.shape[1] == heads, lambda: f"attention '{name}' has {heads} heads, its input {q.shape[1]}")
    shared = k.shape[1] == v.shape[1] and heads % k.shape[1] == 0
    torch._check(shared, lambda: f"attention '{name}': {k.shape[1]} heads of keys and {v.shape[1]} of values cannot serve {heads}")


@torch.library.custom_op(
    "sparsecc::block_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor q, Tensor k, Tensor v, {_MAP}, bool causal, Tensor? mask, str precision) -> (Tensor, Tensor, Tensor)",
)
def block_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    orders: Tensor | None,
    keep: Tensor,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    causal: bool,
    mask: Tensor | None,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """dV = Pᵀ dO;  dS = P ∘ (dO Vᵀ − Σ over the row of P ∘ dO Vᵀ);  dQ = scale · dS K;  dK = scale · dSᵀ Q. P is computed again."""
    grad_q, grad_k, grad_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    block_map, shared = restore(orders, keep, grid, text_first, block, causal), q.shape[1] // k.shape[1]
    v = rounded_values(v, precision)
    for head, queries, keys, q_part, k_part, p in _parts(q, k, block_map, scale, mask, precision):
        of_output, of_keys = grad[:, head, queries], head // shared
        of_p = of_output @ v[:, of_keys, keys].transpose(1, 2)
        of_scores = scale * p * (of_p - (p * of_p).sum(-1, keepdim=True))
        grad_q[:, head, queries] = of_scores @ k_part
        grad_k[:, of_keys].index_add_(1, keys, of_scores.transpose(1, 2) @ q_part)
        grad_v[:, of_keys].index_add_(1, keys, p.transpose(1, 2) @ of_output)
    return grad_q, grad_k, grad_v


@block_attention_backward.register_fake
def _backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.grid, ctx.text_first, ctx.block, ctx.scale, _, ctx.causal, mask, ctx.precision = inputs
    ctx.save_for_backward(*tensors, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *tensors, mask = ctx.saved_tensors
    if mask is not None and mask.requires_grad:
        raise RuntimeError("block_attention has no gradient of its mask")
    options = (ctx.grid, ctx.text_first, ctx.block, ctx.scale, ctx.causal, mask, ctx.precision)
    return *torch.ops.sparsecc.block_attention_backward(grad, *tensors, *options), *[None] * 10


block_attention.register_autograd(_backward, setup_context=_setup_context)
