"""Calls of scaled_dot_product_attention inside any torch model: looked at, or computed otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class AttentionCalls(TorchFunctionMode):
    """Inside `with`, attention is `attend(site, q, k, v)`. site: which of the model's `sites` calls it is, in the order in which they run.

    Only plain attention is taken: a call with a mask, causal or with a scale of its own raises TypeError.
    """

    def __init__(self, sites: int, attend: Attend) -> None:
        super().__init__()
        self.sites, self.attend, self._calls = sites, attend, 0

    def __torch_function__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        if len(args) != 3 or kwargs:
            raise TypeError("attention with a mask, causal or with a scale of its own")
        self._calls += 1
        return self.attend((self._calls - 1) % self.sites, *args)


def masked(masks: Sequence[Tensor]) -> AttentionCalls:
    """Attention in which each head sees only where its mask is True: bool[heads, tokens, tokens], one for each site."""
    return AttentionCalls(len(masks), lambda site, q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=masks[site]))


def spread(keep: Tensor, places: Tensor, block: int) -> Tensor:
    """bool[heads, tokens, tokens] in the model's order, of the blocks that a map keeps.

    keep: bool[heads, query_blocks, key_blocks].  places: int64[heads, tokens], the token at each place of the order in which they lie.
    """
    tokens = places.shape[1]
    number = torch.empty_like(places).scatter_(1, places, (torch.arange(tokens, device=places.device) // block).expand_as(places))
    heads = torch.arange(len(keep), device=keep.device)[:, None, None]
    return keep[heads, number[:, :, None], number[:, None, :]]
