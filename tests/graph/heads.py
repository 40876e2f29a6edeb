"""Attentions whose heads are laid out in many ways, for the tests that follow channels through a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

X = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """Four heads of 6."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(24, 24) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        return self.out(self.join(self.attend(q, k, v)))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (4, 6)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    def join(self, y: Tensor) -> Tensor:
        return y.transpose(1, 2).flatten(2)


class Rotary(Heads):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angle = torch.arange(q.shape[2])[:, None] * torch.tensor([1.0, 0.1, 0.01, 1.0, 0.1, 0.01])

        def turned(x: Tensor) -> Tensor:
            return x * angle.cos() + torch.cat([-x[..., 3:], x[..., :3]], -1) * angle.sin()

        return functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)


class Flattened(Heads):
    """GPT-2 has [tokens, width] at every layer, and asks for its sizes."""

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 24).reshape(*x.shape[:2], 4, 6).permute(0, 2, 1, 3)

    def join(self, y: Tensor) -> Tensor:
        return y.permute(0, 2, 1, 3).contiguous().reshape(-1, 24).reshape(y.shape[0], y.shape[2], 24)


class Slopes(Heads):
    """A mask of its own for each head (ALiBi)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = -torch.arange(q.shape[2]).float() * torch.tensor([0.5, 0.25, 0.1, 0.05])[:, None, None]
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(4, q.shape[2], -1))


class Gated(Heads):
    """A stored number for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.arange(1.0, 5.0)[:, None, None])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(q, k, v) * self.gate


class Mixed(Heads):
    """Heads that see each other."""

    def join(self, y: Tensor) -> Tensor:
        return functional.layer_norm(y.transpose(1, 2).flatten(2), (24,))


class Bare(Heads):
    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.attend(*(self.split(layer(x)) for layer in (self.q, self.k, self.v))))


class Unprojected(Heads):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.join(self.attend(self.split(x), self.split(self.k(x)), self.split(self.v(x)))))


class OneLayer(Heads):
    def forward(self, x: Tensor) -> Tensor:
        q = self.split(self.q(x))
        return self.out(self.join(self.attend(q, q, self.split(self.v(x)))))


class Twice(Heads):
    def forward(self, x: Tensor) -> Tensor:
        y = self.join(self.attend(*(self.split(layer(x)) for layer in (self.q, self.k, self.v))))
        return self.out(y) + self.out(-y)


class Transposed(Heads):
    def join(self, y: Tensor) -> Tensor:
        return y.permute(0, 2, 3, 1).flatten(2)


FOLLOWED = (Heads, Rotary, Flattened)
REFUSED = (Slopes, Gated, Mixed, Bare, Unprojected, OneLayer, Twice, Transposed)
