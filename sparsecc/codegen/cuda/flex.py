"""`sparsecc::flex_attention_cuda`: a block map by FlexAttention (Dong et al. 2024), for what our own kernel does not take.

    y = softmax(scale · q kᵀ, over the blocks kept) v

Arguments are those of `sparsecc::block_attention`; seen bool [batch or 1, 1, 1, tokens], which keys are, None for all. Inductor compiles
it at the first call for each size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparsecc.attention import export
from sparsecc.attention.base import BlockMap
from sparsecc.codegen.cuda import blocks, launched
from sparsecc.errors import Refused
from sparsecc.ops.block_attention.torch import reference, restore

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_SMALLEST_TILE = 16
_SIZES = 256  # of attention in a process, each of which is compiled


class Flexed:
    """A map as FlexAttention reads it, on a device."""

    def __init__(self, found: BlockMap, device: torch.device) -> None:
        self.map = found.to(device)
        self._mask, self._lists = export.block_mask(self.map, device), export.listed(self.map.keep)
        self._places = None if found.orders is None else self.map.places().int()
        self._back = None if self._places is None else self._places.argsort(1).int()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor | None = None) -> Tensor:
        """q, k, v: [batch, heads, tokens, head_dim] in the model's order.  seen: bool[batch, tokens], which keys are; all if None."""
        mask = self._mask if seen is None else self._hiding(seen.expand(len(q), -1))  # a query that sees no key gets zeros
        options: dict[str, Any] = {"block_mask": mask, "scale": scale, "kernel_options": _tiles(self.map.block)}
        if self._places is None or self._back is None:
            return _compiled()(q, k, v, **options, enable_gqa=q.shape[1] != k.shape[1])
        y = _compiled()(*(blocks.in_order(x, self._places) for x in (q, k, v)), **options)
        return blocks.in_order(y, self._back)

    def _hiding(self, seen: Tensor) -> BlockMask:
        """Of all blocks kept, with a mask that hides keys, each head's in its own order."""
        from torch.nn.attention.flex_attention import BlockMask

        found, tokens, causal = self.map, self.map.grid.tokens, self.map.causal
        of_head = seen[:, None].expand(-1, found.heads, -1) if self._places is None else seen[:, self._places]

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            inside = of_head[batch, head, key.clamp(max=tokens - 1)] & (key < tokens)
            return inside & (key <= query) if causal else inside

        counts, indices = self._lists
        return BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=found.block, mask_mod=visible, seq_lengths=(tokens, tokens))


def unfit(block: int) -> Refused | None:
    """Why FlexAttention does not take blocks of so many tokens."""
    if block % _SMALLEST_TILE == 0:
        return None
    return Refused(f"FlexAttention takes blocks of a multiple of {_SMALLEST_TILE} tokens, not of {block}")


def _tiles(block: int) -> dict[str, int] | None:
    """FlexAttention's tiles have to divide a block. None where those that it chooses itself do."""
    return None if block % 128 == 0 else {"BLOCK_M": math.gcd(block, 64), "BLOCK_N": math.gcd(block, 64)}


@cache
def _compiled() -> Any:
    """Raises where it would go on without being compiled, as after many sizes: it would compute every block then."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def call(*arguments: Any, **options: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=_SIZES):
            return compiled(*arguments, **options)

    return call


_READY = WeakTensorKeyDictionary()  # maps as they are read, by what else they consist of, by their keep


def _cuda(
    q: Tensor, k: Tensor, v: Tensor, orders: Tensor | None, keep: Tensor, grid: Sequence[int], text_first: bool, block: int, scale: float,
    causal: bool, seen: Tensor | None,
) -> Tensor:  # fmt: skip
    made = _READY.get(keep)
    if made is None:
        made = _READY[keep] = {}
    versions = None if keep.is_inference() else (keep._version, None if orders is None else (id(orders), orders._version))
    key = (versions, tuple(grid), text_first, block, causal)
    if key not in made:
        made.clear()
        made[key] = Flexed(restore(orders, keep, grid, text_first, block, causal), q.device)
    return _like(made[key](q, k, v, scale, None if seen is None else seen[:, 0, 0]))


def _cpu(
    q: Tensor, k: Tensor, v: Tensor, orders: Tensor | None, keep: Tensor, grid: Sequence[int], text_first: bool, block: int, scale: float,
    causal: bool, seen: Tensor | None,
) -> Tensor:  # fmt: skip
    """What it means, for a machine without a GPU: in float32."""
    found = restore(orders, keep, grid, text_first, block, causal)
    return _like(reference(q.float(), k.float(), v.float(), found, scale, seen).to(q.dtype))


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    batch, heads, tokens, _depth = q.shape
    return q.new_empty(batch, tokens, heads, v.shape[3]).transpose(1, 2)


def _like(y: Tensor) -> Tensor:
    """As `block_attention` returns it."""
    return y.transpose(1, 2).contiguous().transpose(1, 2)


flex_attention_cuda = launched.registered(
    "Tensor q, Tensor k, Tensor v, Tensor? orders, Tensor keep, int[] grid, bool text_first, int block, float scale, bool causal, "
    "Tensor? seen",
    "flex_attention_cuda",
    _cuda,
    _cpu,
    _fake,
)
