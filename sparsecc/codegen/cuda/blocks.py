"""`sparsecc::block_attention_cuda`: the torch operator that launches `block_attention`, and a block map as the kernel reads it.

    y = softmax(scale · q kᵀ, over the blocks kept) v

q, k and v [batch, heads, tokens, head_dim] in the model's order, of keys and values perhaps fewer heads; seen bool [batch or 1, 1, 1,
tokens], which keys are, None for all; y lies in memory as [batch, tokens, heads, head_dim]. Registered as `operator.linear_cuda` is, and as
that without gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen.cuda import launched, operator
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.kernels.block_attention import BITS, TILE, words
from sparsecc.codegen.cuda.pieces.rows import brings, counters
from sparsecc.errors import InputError
from sparsecc.ops.block_attention.torch import reference, restore

if TYPE_CHECKING:
    from sparsecc.attention.base import BlockMap

_WAVE = 132  # rows of tiles that an H200 works on at once


class Packed(NamedTuple):
    """items: int32 [batch · heads · rows of tiles, 4], each with its head, its number among the head's, where its tiles begin and how many
    there are.  tiles: int32, those of a row from the last to the first; the number of a tile of keys and, from `BITS` on, which of its four
    blocks are kept: queries first.  places: int32 [heads, tokens], the token that stands at each place of a head's order; None where that
    is the model's."""

    items: Tensor
    tiles: Tensor
    places: Tensor | None


def tile_bits(keep: Tensor, block: int) -> Tensor:
    """int32[heads, rows of tiles, as many], which of the four blocks of each tile are kept, queries first. keep: bool[heads, query_blocks,
    key_blocks]."""
    half, count = TILE // block, keep.shape[-1]
    rows = -(-count // half)
    missing = rows * half - count
    parts = functional.pad(keep, (0, missing, 0, missing)).view(-1, rows, half, rows, half).permute(0, 1, 3, 2, 4)
    parts = parts.expand(-1, -1, -1, 2, 2) if half == 1 else parts
    return (parts.flatten(3).int() << torch.arange(4, dtype=torch.int32, device=keep.device)).sum(-1, dtype=torch.int32)


def pack(block_map: BlockMap, batch: int) -> Packed:
    """A map of blocks of 64 or 128. Heads come one after the other, so that their keys stay in the cache; the longest rows of a head first,
    and back again in the next wave, so that no processor has all the long ones."""
    heads, bits = block_map.heads, tile_bits(block_map.keep, block_map.block)
    some, rows = bits > 0, bits.shape[1]
    counts = some.sum(2)
    starts = counts.flatten().cumsum(0).view_as(counts) - counts
    order = torch.sort(counts, dim=1, descending=True, stable=True).indices
    head = torch.arange(heads, device=bits.device)[:, None].expand_as(order)
    items = torch.stack([head, order, starts.gather(1, order), counts.gather(1, order)], -1).flatten(0, 1)
    every = torch.cat([items + torch.tensor([number * heads, 0, 0, 0], device=items.device) for number in range(batch)])
    turned = every[: len(every) // _WAVE * _WAVE].view(-1, _WAVE, 4)
    turned[1::2] = turned[1::2].flip(1)
    tiles = rows - 1 - some.flip(2).nonzero()[:, 2] | bits.flip(2)[some.flip(2)].long() << BITS
    places = None if block_map.orders is None else block_map.places().to(torch.int32).contiguous()
    return Packed(every.to(torch.int32).contiguous(), tiles.to(torch.int32), places)


def unpack(packed: Packed, spec: BlockAttentionSpec, item: int = 0) -> Tensor:
    """bool [heads, query_blocks, key_blocks]: what is kept in an item of the batch. Exact inverse of `pack`."""
    blocks, half = -(-spec.tokens // spec.block), TILE // spec.block
    rows = -(-blocks // half)
    keep = torch.zeros(spec.heads, rows, rows, 2, 2, dtype=torch.bool, device=packed.items.device)
    for head, row, start, count in packed.items.tolist():
        if head // spec.heads == item:
            entries = packed.tiles[start : start + count].long()
            bits = entries[:, None] >> (BITS + torch.arange(4, device=entries.device)) & 1
            keep[head % spec.heads, row, entries & ((1 << BITS) - 1)] = bits.bool().view(-1, 2, 2)
    if half == 1:
        return keep[:, :, :, 0, 0]
    return keep.permute(0, 1, 3, 2, 4).reshape(spec.heads, rows * half, rows * half)[:, :blocks, :blocks]


def map_of(packed: Packed, spec: BlockAttentionSpec, item: int = 0) -> BlockMap:
    """Of an item of the batch, over a line of tokens."""
    return restore(packed.places, unpack(packed, spec, item), (1, 1, spec.tokens, 0), True, spec.block, spec.causal)


def meaning(
    spec: BlockAttentionSpec, q: Tensor, k: Tensor, v: Tensor, items: Tensor, tiles: Tensor, places: Tensor | None, seen: Tensor | None
) -> Tensor:
    """What it computes, one block of queries after the other."""
    packed, parts, precision = Packed(items, tiles, places), [], "int8" if spec.int8 else "float32"
    for item in range(spec.batch):
        own = slice(item, item + 1)
        mask = seen if seen is None or len(seen) == 1 else seen[own]
        parts.append(reference(q[own], k[own], v[own], map_of(packed, spec, item), spec.scale, mask, precision))
    return torch.cat(parts)


def hides_keys(mask: Tensor, batch: int, tokens: int) -> bool:
    """Whether a mask [batch or 1, 1, 1, tokens] says which keys are seen, of all queries and heads alike."""
    return mask.dtype == torch.bool and mask.dim() == 4 and mask.shape[0] in (1, batch) and tuple(mask.shape[1:]) == (1, 1, tokens)


def pack_seen(seen: Tensor, spec: BlockAttentionSpec, places: Tensor | None) -> Tensor:
    """int32[batch, heads or 1, words]: a bit for each key of a head's order. seen: as `hides_keys` says."""
    row = seen.view(-1, 1, spec.tokens) if places is None else seen.view(-1, spec.tokens)[:, places.long()]
    row = functional.pad(row, (0, words(spec) * 32 - spec.tokens)).unflatten(2, (-1, 32)).long()
    bits = (row << torch.arange(32, device=seen.device)).sum(3)
    return (bits - (bits >> 31 << 32)).to(torch.int32).expand(spec.batch, -1, -1).contiguous()


def tokens_first(*inputs: Tensor) -> str:
    """Which of q, k and v [batch, heads, tokens, head_dim] lie as a projection wrote them, as a spec names them."""
    return "".join(name for name, x in zip("QKV", inputs, strict=True) if not x.is_contiguous() and x.transpose(1, 2).is_contiguous())


def in_order(x: Tensor, places: Tensor) -> Tensor:
    """[batch, heads of the map, tokens, head_dim] of x in the model's order."""
    batch, heads, tokens, depth = x.shape
    first = torch.arange(len(places), device=x.device, dtype=torch.int32) // (len(places) // heads) * tokens
    rows = (places + first[:, None]).flatten()
    return x.reshape(batch, heads * tokens, depth).index_select(1, rows).view(batch, len(places), tokens, depth)


def through_torch(
    spec: BlockAttentionSpec, q: Tensor, k: Tensor, v: Tensor, items: Tensor, tiles: Tensor, places: Tensor | None, seen: Tensor | None
) -> Tensor:
    """Dense, which is what the map stands for."""
    grouped = spec.heads != spec.kv_heads
    if seen is not None and spec.causal:
        seen = seen & torch.ones(spec.tokens, spec.tokens, dtype=torch.bool, device=seen.device).tril()
    causal = spec.causal and seen is None
    return functional.scaled_dot_product_attention(q, k, v, seen, is_causal=causal, scale=spec.scale, enable_gqa=grouped)


def example(spec: BlockAttentionSpec, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Some q, k and v."""

    def drawn(name: str, heads: int) -> Tensor:
        middle = (spec.tokens, heads) if name in spec.tokens_first else (heads, spec.tokens)
        x = torch.randn(spec.batch, *middle, spec.head_dim, device=device, dtype=getattr(torch, spec.dtype))
        return x.transpose(1, 2) if name in spec.tokens_first else x

    return drawn("Q", spec.heads), drawn("K", spec.kv_heads), drawn("V", spec.kv_heads)


def _checked(
    plan: str, q: Tensor, k: Tensor, v: Tensor, items: Tensor, tiles: Tensor, places: Tensor | None, seen: Tensor | None
) -> BlockAttentionSpec:
    """Raises InputError for shapes, types and devices that are not the plan's."""
    spec = launched.spec_of(BlockAttentionSpec, plan, "block_attention_cuda")
    if (places is not None) != spec.ordered:
        raise InputError(f"block_attention_cuda: this plan is for tokens in {'other orders' if spec.ordered else 'the order of the model'}")
    if (seen is not None) != spec.masked or (seen is not None and not hides_keys(seen, spec.batch, spec.tokens)):
        wanted = f"bool ({spec.batch}, 1, 1, {spec.tokens}), which keys are seen" if spec.masked else "no mask"
        raise InputError(f"block_attention_cuda: this plan takes {wanted}")
    for name, tensor, heads in (("q", q, spec.heads), ("k", k, spec.kv_heads), ("v", v, spec.kv_heads)):
        shape = (spec.batch, heads, spec.tokens, spec.head_dim)
        if tensor.shape != shape or tensor.dtype is not getattr(torch, spec.dtype) or tensor.device != q.device:
            here = f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise InputError(f"block_attention_cuda takes {spec.dtype} {shape} on {q.device}, {here}")
    rows = spec.batch * spec.heads * -(-spec.tokens // TILE)
    lists = [(items, (rows, 4)), (tiles, tuple(tiles.shape[:1])), *([] if places is None else [(places, (spec.heads, spec.tokens))])]
    if any(x.shape != shape or x.dtype != torch.int32 or x.device != q.device or not x.is_contiguous() for x, shape in lists):
        raise InputError(f"block_attention_cuda: its lists of tiles are not those of a map for {spec.name} on {q.device}")
    return spec


def _cuda(q: Tensor, k: Tensor, v: Tensor, items: Tensor, tiles: Tensor, places: Tensor | None, seen: Tensor | None, plan: str) -> Tensor:
    spec, launch = _checked(plan, q, k, v, items, tiles, places, seen), launched.on(plan, q.device)
    if not launch.there:
        return meaning(spec, q, k, v, items, tiles, places, seen)
    given = {name: _arranged(x, name in spec.tokens_first) for name, x in (("Q", q), ("K", k), ("V", v))}
    y = q.new_empty(spec.batch, spec.tokens, spec.heads, spec.head_dim)
    tensors = _brought(spec, given, places) if brings(spec) else given
    if seen is not None:
        tensors = tensors | {"M": pack_seen(seen, spec, places)}
    launch(tensors | {"I": items, "L": tiles, "Y": y})
    return y.transpose(1, 2)


def _brought(spec: BlockAttentionSpec, given: dict[str, Tensor], places: Tensor | None) -> dict[str, Tensor]:
    """What the kernel reads, room for that in order, perhaps rounded, and its counters."""
    shape, q = (spec.batch, spec.heads, spec.tokens, spec.head_dim), given["Q"]
    dtypes = {name: torch.int8 if spec.int8 and name != "V" else x.dtype for name, x in given.items() if spec.ordered or name != "V"}
    made = {name: q.new_empty(shape, dtype=dtype) for name, dtype in dtypes.items()}
    raw, room = ({f"{name}{mark}": x for name, x in named.items()} for named, mark in ((given, "R"), (made, "O")))
    steps = {f"{name}S": q.new_empty(*shape[:2], -(-spec.tokens // spec.block), dtype=torch.float32) for name in "QK" if spec.int8}
    order = {} if places is None else {"P": places}
    return {**given, **made, **raw, **room, **steps, **order, "C": q.new_zeros(counters(spec), dtype=torch.int32)}


def _arranged(x: Tensor, tokens_first: bool) -> Tensor:
    """[batch, heads, tokens, head_dim] as the kernel reads it: a copy only where it lies otherwise."""
    return operator.aligned(x.transpose(1, 2) if tokens_first else x)


def _cpu(q: Tensor, k: Tensor, v: Tensor, items: Tensor, tiles: Tensor, places: Tensor | None, seen: Tensor | None, plan: str) -> Tensor:
    """What it means, for a machine without a GPU: in float32."""
    spec = _checked(plan, q, k, v, items, tiles, places, seen)
    y = meaning(spec, q.float(), k.float(), v.float(), items, tiles, places, seen).to(q.dtype)
    return y.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(q: Tensor, k: Tensor, v: Tensor, items: Tensor, tiles: Tensor, places: Tensor | None, seen: Tensor | None, plan: str) -> Tensor:
    batch, heads, tokens, depth = q.shape
    return q.new_empty(batch, tokens, heads, depth).transpose(1, 2)


block_attention_cuda = launched.registered(
    "Tensor q, Tensor k, Tensor v, Tensor items, Tensor tiles, Tensor? places, Tensor? seen, str plan",
    "block_attention_cuda",
    _cuda,
    _cpu,
    _fake,
)
