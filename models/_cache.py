"""Keys and values of the tokens so far, in buffers of a fixed size that a step writes its own into, so that a CUDA graph can hold it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def seen_at(positions: Tensor, tokens: int) -> Tensor:
    """bool[new, tokens]: the tokens up to each position, once for all layers."""
    return torch.arange(tokens, device=positions.device) <= positions[:, None]


class Cache(nn.Module):
    """keys, values: [1, heads, tokens, head_dim], for one sequence."""

    keys: Tensor
    values: Tensor

    def __init__(self, heads: int, tokens: int, head_dim: int) -> None:
        super().__init__()
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, heads, tokens, head_dim), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        """Writes k and v [1, heads, new, head_dim] at positions int64[new]; what q [1, query heads, new, head_dim] attends to among all
        that are seen, bool[new, tokens]."""
        self.keys.index_copy_(2, positions, k)
        self.values.index_copy_(2, positions, v)
        return F.scaled_dot_product_attention(q, self.keys, self.values, seen, enable_gqa=q.shape[1] != k.shape[1])
