"""`sparsecc::chosen_tiles`: the lists of tiles that `block_attention` reads, of blocks that are chosen in each call.

What chooses is torch's (`attention.dynamic.select`). Nothing here waits for the device: lists have room for every tile of a row, and which
rows come when is decided once, from how many blocks each will keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from sparsecc.attention.base import BlockMap
from sparsecc.attention.dynamic import DynamicMap, refreshed, rule_of, select
from sparsecc.codegen.cuda import blocks
from sparsecc.codegen.cuda.kernels.block_attention import BITS, TILE


@dataclass(frozen=True, eq=False)
class Chosen:
    """Lists that a graph has to make of q and k. order: int32 [batch · heads · rows of tiles, 2], of each its head and its number among the
    head's.  example: lists of as many tiles as there are where the rule chooses.  calls: the counter's node of a map that is refreshed."""

    q: Node
    k: Node
    found: DynamicMap
    scale: float
    order: Tensor
    example: tuple[Tensor, Tensor]
    calls: Node | None = None

    @classmethod
    def of(cls, q: Node, k: Node, found: DynamicMap, scale: float, calls: Node | None = None) -> Chosen:
        packed = blocks.pack(stand_in(found), q.meta["val"].shape[0])
        return cls(q, k, found, scale, packed.items[:, :2].contiguous(), (packed.items, packed.tiles), calls)

    @property
    def said(self) -> str:
        """What the times are of, for a report."""
        dense = f"; these are of calls that choose, not of every {self.found.nth} one, which computes all" if self.found.refresh else ""
        return f"choosing blocks is torch's, and not in the times{dense}"

    def arguments(self, read: Any) -> tuple[Any, ...]:
        """Of the operator. read: the node of a stored tensor."""
        found, rule = self.found, self.found.rule
        learnt = None if rule.learnt is None else read(rule.learnt)
        options = (rule.name, rule.number, found.refresh, found.block, self.scale, found.causal)
        return self.q, self.k, read(found.required), learnt, self.calls, read(self.order), *options


def stand_in(found: DynamicMap) -> BlockMap:
    """What is kept in any case, and the nearest other blocks up to the rule's number of each row; where it has none, up to the density."""
    full = found.full
    counts = (found.chosen_density * full.sum(-1)).round() if found.counts is None else found.counts
    at = torch.arange(len(full), device=full.device)
    nearness = -(at[:, None] - at).abs().expand_as(found.required).float()
    score = nearness.masked_fill(found.required, torch.inf).masked_fill(~full, -torch.inf)
    rank = score.argsort(stable=True, dim=-1, descending=True).argsort(-1)
    return BlockMap(found.grid, found.block, None, (rank < counts[..., None]) & full | found.required, found.causal)


def lists(keep: Tensor, order: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """items and tiles as `blocks.Packed` has them, of keep [batch, heads, query_blocks, key_blocks]; behind the tiles of a row there is
    unused room."""
    bits = blocks.tile_bits(keep.flatten(0, 1), block)
    rows = bits.shape[1]
    at = torch.arange(rows, dtype=torch.int32, device=keep.device)
    numbers = torch.where(bits > 0, at, -1).sort(-1, descending=True)
    tiles = torch.where(numbers.values < 0, 0, numbers.values | bits.gather(-1, numbers.indices) << BITS)
    own = order[:, 0] * rows + order[:, 1]
    counts = (bits > 0).sum(-1, dtype=torch.int32).flatten().index_select(0, own)
    return torch.stack([order[:, 0], order[:, 1], own * rows, counts], 1), tiles.flatten()


@torch.library.custom_op(
    "sparsecc::chosen_tiles",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor required, Tensor? learnt, Tensor? calls, Tensor order, str rule, int number, int refresh,"
    " int block, float scale, bool causal) -> (Tensor, Tensor)",
)
def chosen_tiles(
    q: Tensor,
    k: Tensor,
    required: Tensor,
    learnt: Tensor | None,
    calls: Tensor | None,
    order: Tensor,
    rule: str,
    number: int,
    refresh: int,
    block: int,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """items and tiles, see `lists`.  required, learnt, rule, number, refresh: a DynamicMap's.  calls: how many there were before, int64[],
    of a map that is refreshed.  order: as in `Chosen`."""
    keep = select(rule_of(rule, number, learnt), required, q, k, scale, block, causal)
    return lists(refreshed(keep, calls, refresh, causal), order, block)


@chosen_tiles.register_fake
def _fake(
    q: Tensor, k: Tensor, required: Tensor, learnt: Tensor | None, calls: Tensor | None, order: Tensor, *options: Any
) -> Sequence[Tensor]:
    block = options[3]
    rows = -(-required.shape[-1] // (TILE // block))
    return order.new_empty(len(order), 4), order.new_empty(q.shape[0] * q.shape[1] * rows * rows)
