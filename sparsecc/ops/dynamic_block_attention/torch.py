"""dynamic_block_attention: softmax(scale · q kᵀ) v over the blocks that a rule chooses in each call from q and k, see `DynamicMap`.

A map that is refreshed comes with a counter of calls. The operator reads it; the graph around it adds one after each call, so that the
operator itself writes nothing: `y = dynamic_block_attention(.., calls, ..); calls.copy_(calls + 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.attention.base import Grid
from sparsecc.attention.dynamic import DynamicMap, refreshed, rule_of
from sparsecc.ops.base import CALLS, Operator, TorchCall
from sparsecc.ops.block_attention.torch import check_shapes, output_like


@dataclass(frozen=True)
class DynamicBlockAttention(Operator):
    """Stands in the place of an Attention site without a mask, whose q, k and v are [batch, heads, tokens, head_dim]."""

    takes: ClassVar[tuple[str, ...]] = ("Attention",)

    map: DynamicMap
    scale: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        learnt = self.map.rule.learnt
        counter = {} if self.counter is None else {self.counter: torch.zeros((), dtype=torch.int64)}
        return {"required": self.map.required, **({} if learnt is None else {"learnt": learnt}), **counter}

    @property
    def counter(self) -> str | None:
        return CALLS if self.map.refresh else None

    def torch_arguments(self, inputs: Sequence[Any], tensors: Sequence[Any], bias: Any) -> tuple[Any, ...]:
        given = dict(zip(self.tensors, tensors, strict=True))
        return (*inputs, *(given.get(name) for name in ("required", "learnt", CALLS)))

    def torch_call(self, name: str) -> TorchCall:
        """The operator, and its arguments after q, k, v, required, learnt and calls (the last two may be None)."""
        found, grid = self.map, self.map.grid
        place = ([*grid.axes, grid.text_tokens], grid.text_first, found.block, self.scale, name, found.causal)
        rule = (found.rule.name, found.rule.number, found.density, found.refresh)
        return TorchCall(torch.ops.sparsecc.dynamic_block_attention.default, (*rule, *place))

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference(q, k, v, self.map, self.scale)


def restore(
    required: Tensor,
    learnt: Tensor | None,
    rule: str,
    number: int,
    density: float,
    refresh: int,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    causal: bool,
) -> DynamicMap:
    """The map that was flattened into an operator's arguments. Raises ValueError when they contradict each other."""
    frames, height, width, text = grid
    place = Grid(frames, height, width, text, text_first)
    return DynamicMap(place, block, required, rule_of(rule, number, learnt), density, causal, refresh)


def map_of(given: Mapping[str, Any], tensor_of: Callable[[Any], Any]) -> DynamicMap:
    """The map of a call. given: the operator's arguments by name.  tensor_of: what a graph has for a tensor → the tensor."""
    learnt = None if given["learnt"] is None else tensor_of(given["learnt"])
    return restore(
        tensor_of(given["required"]),
        learnt,
        *(given[name] for name in ("rule", "number", "density", "refresh", "grid", "text_first", "block", "causal")),
    )


def reference(q: Tensor, k: Tensor, v: Tensor, found: DynamicMap, scale: float) -> Tensor:
    """What dynamic_block_attention means in a call in which the rule chooses."""
    return attend(q, k, v, found.select(q, k, scale), scale, found.block, found.causal)


def _kept(q: Tensor, k: Tensor, found: DynamicMap, scale: float, calls: Tensor | None) -> Tensor:
    return refreshed(found.select(q, k, scale), calls, found.refresh, found.causal)


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, block: int, causal: bool) -> Tensor:
    """keep: bool[batch, heads, query_blocks, key_blocks], no row empty, the diagonal kept where it is causal. What is left out is not
    computed but where another head or batch item keeps more in that row of blocks."""
    output = output_like(q, v)
    for row in _rows(q, k, v, keep, scale, block, causal):
        output[:, :, row.queries] = row.p @ row.values
    return output


class _Row(NamedTuple):
    """A row of blocks. queries: which.  blocks: int64[batch, heads, count], which keys' they see.  keys, values: [batch, heads, count ·
    block, ..].  p: probabilities."""

    queries: slice
    blocks: Tensor
    keys: Tensor
    values: Tensor
    p: Tensor


def _rows(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, block: int, causal: bool) -> Iterator[_Row]:
    tokens, precise = q.shape[2], torch.promote_types(q.dtype, torch.float32)
    in_block = torch.arange(block, device=q.device)
    counts = keep.sum(-1).amax((0, 1)).tolist()
    key_blocks, value_blocks = (functional.pad(x, (0, 0, 0, -tokens % block)).unflatten(2, (-1, block)).flatten(3) for x in (k, v))
    for number, count in enumerate(counts):
        queries = slice(number * block, min((number + 1) * block, tokens))
        chosen = keep[:, :, number].sort(dim=-1, descending=True, stable=True)
        blocks = chosen.indices[..., :count]
        keys, values = (_taken(x, blocks).unflatten(3, (block, -1)).flatten(2, 3) for x in (key_blocks, value_blocks))
        at = (blocks[..., None] * block + in_block).flatten(2)
        seen = (at < tokens) & chosen.values[..., :count].repeat_interleave(block, 2)
        scores = scale * q[:, :, queries] @ keys.transpose(2, 3)
        scores = scores.masked_fill(~seen[:, :, None], -torch.inf)
        if causal:
            of_query = torch.arange(queries.start, queries.stop, device=q.device)
            scores = scores.masked_fill(at[:, :, None] > of_query[:, None], -torch.inf)
        yield _Row(queries, blocks, keys, values, scores.softmax(-1, dtype=precise).to(q.dtype))


def _taken(x: Tensor, blocks: Tensor) -> Tensor:
    """[batch, heads, count, block · dim] of x [batch, kv_heads, blocks, block · dim]."""
    return x.gather(2, _index(x, blocks)).unflatten(2, (-1, blocks.shape[2])).flatten(1, 2)


def _index(x: Tensor, blocks: Tensor) -> Tensor:
    """Blocks of heads [batch, heads, count] as an index into x [batch, kv_heads, blocks, size]."""
    of_heads = blocks.unflatten(1, (x.shape[1], -1)).flatten(2)
    return of_heads[..., None].expand(-1, -1, -1, x.shape[3])


_RULE = "Tensor required, Tensor? learnt, Tensor? calls, str rule, int number, float density, int refresh"
_MAP = f"{_RULE}, int[] grid, bool text_first, int block, float scale"


@torch.library.custom_op(
    "sparsecc::dynamic_block_attention",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_MAP}, str name, bool causal=False) -> Tensor",
)
def dynamic_block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    required: Tensor,
    learnt: Tensor | None,
    calls: Tensor | None,
    rule: str,
    number: int,
    density: float,
    refresh: int,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    name: str,
    causal: bool = False,
) -> Tensor:
    """required to causal: a DynamicMap's, its rule as its name, number and calibrated tensor.  grid: frames, height, width, text tokens.
    calls: how many there were before, int64[], of a map that is refreshed.  name: the site's."""
    found = restore(required, learnt, rule, number, density, refresh, grid, text_first, block, causal)
    check_shapes(q, k, v, found.heads, found.grid.tokens, name)
    return attend(q, k, v, _kept(q, k, found, scale, calls), scale, block, causal)


@dynamic_block_attention.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    required: Tensor,
    learnt: Tensor | None,
    calls: Tensor | None,
    rule: str,
    number: int,
    density: float,
    refresh: int,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    name: str,
    causal: bool = False,
) -> Tensor:
    check_shapes(q, k, v, len(required), math.prod(grid[:3]) + grid[3], name)
    return output_like(q, v)


@torch.library.custom_op(
    "sparsecc::dynamic_block_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor q, Tensor k, Tensor v, {_MAP}, bool causal) -> (Tensor, Tensor, Tensor)",
)
def dynamic_block_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    required: Tensor,
    learnt: Tensor | None,
    calls: Tensor | None,
    rule: str,
    number: int,
    density: float,
    refresh: int,
    grid: Sequence[int],
    text_first: bool,
    block: int,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As of block_attention, for the blocks that q and k choose, which is a step function of them: it has no gradient."""
    found = restore(required, learnt, rule, number, density, refresh, grid, text_first, block, causal)
    grad_q, tokens = torch.zeros_like(q, memory_format=torch.contiguous_format), q.shape[2]
    grad_k, grad_v = (x.new_zeros(*x.shape[:2], found.grid.blocks(block), block * x.shape[3]) for x in (k, v))
    for row in _rows(q, k, v, _kept(q, k, found, scale, calls), scale, block, causal):
        of_output, queries = grad[:, :, row.queries], q[:, :, row.queries]
        of_p = of_output @ row.values.transpose(2, 3)
        of_scores = scale * row.p * (of_p - (row.p * of_p).sum(-1, keepdim=True))
        grad_q[:, :, row.queries] = of_scores @ row.keys
        _add(grad_k, row.blocks, of_scores.transpose(2, 3) @ queries)
        _add(grad_v, row.blocks, row.p.transpose(2, 3) @ of_output)
    of_k, of_v = (x.unflatten(3, (block, -1)).flatten(2, 3)[:, :, :tokens].contiguous() for x in (grad_k, grad_v))
    return grad_q, of_k, of_v


def _add(total: Tensor, blocks: Tensor, x: Tensor) -> None:
    """Inverse of `_taken`: x [batch, heads, count · block, dim] to the blocks where it came from."""
    count = blocks.shape[2]
    parts = x.unflatten(2, (count, -1)).flatten(3).unflatten(1, (total.shape[1], -1)).flatten(2, 3)
    total.scatter_add_(2, _index(total, blocks), parts)


@dynamic_block_attention_backward.register_fake
def _backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, calls, rule, number, density, refresh, grid, text_first, block, scale, _, causal = inputs
    ctx.options = (rule, number, density, refresh, grid, text_first, block, scale, causal)
    ctx.save_for_backward(*tensors, None if calls is None else calls.clone())  # it is written before the gradients are asked for


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *torch.ops.sparsecc.dynamic_block_attention_backward(grad, *ctx.saved_tensors, *ctx.options), *[None] * 13


dynamic_block_attention.register_autograd(_backward, setup_context=_setup_context)
