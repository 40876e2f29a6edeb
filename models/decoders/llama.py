"""One step of decoding with a Llama-like model: random weights, a cache of fixed size; `SHAPES` has Llama 3 8B's.

It is what a GPU spends its time on when it writes text: every weight is read for each token. Architecture: Touvron et al. 2023, grouped
queries as in Llama 3 (Grattafiori et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models._cache import Cache, seen_at
from models._random import SEED
from models._recipes import prune_and_pack

_THETA = 500000.0  # of the rotary embedding, Su et al. 2021


@dataclass(frozen=True)
class Shape:
    """tokens: that the cache holds."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tokens: int

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


SHAPES = {
    "8b": Shape(128256, 4096, 14336, 32, 32, 8, 1024),
    "1b_4_layers": Shape(16384, 2048, 8192, 4, 32, 8, 256),
    "tiny": Shape(512, 256, 768, 2, 4, 2, 64),
}


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        kv = shape.kv_heads * shape.head_dim
        self.head_dim = shape.head_dim
        self.q_proj, self.o_proj = (nn.Linear(shape.width, shape.width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(shape.width, kv, bias=False) for _ in range(2))
        self.cache = Cache(shape.kv_heads, shape.tokens, shape.head_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = self.cache(_rotated(q, cos, sin), _rotated(k, cos, sin), v, positions, seen)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(shape.width, shape.inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_norm, self.attention = Norm(shape.width), Attention(shape)
        self.mlp_norm, self.mlp = Norm(shape.width), Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        x = x + self.attention(self.input_norm(x), cos, sin, positions, seen)
        return x + self.mlp(self.mlp_norm(x))


class LlamaDecoder(nn.Module):
    """ids int64[1, new], positions int64[new] -> logits [1, new, vocabulary]; keys and values stay in buffers."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        angles = _angles(shape)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        x, cos, sin, seen = self.embedding(ids), self.cos[positions], self.sin[positions], seen_at(positions, len(self.cos))
        for block in self.blocks:
            x = block(x, cos, sin, positions, seen)
        return self.head(self.norm(x))


def build(shape: str = "8b", device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Weights are drawn on the device, so that 16 GB of them take a second on a GPU."""
    with torch.device("meta"):
        described = LlamaDecoder(SHAPES[shape])
    module = described.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(SEED)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        for name, buffer in module.named_buffers():
            if "cache" in name:
                buffer.zero_()
        angles = _angles(SHAPES[shape])
        module.cos.copy_(angles.cos())
        module.sin.copy_(angles.sin())
    return module.eval().requires_grad_(False)


def example_inputs(device: str = "cpu", tokens: int = 1, position: int = 0) -> tuple[Tensor, Tensor]:
    """(ids, positions) of some tokens that follow each other."""
    return (torch.full((1, tokens), 7, device=device), torch.arange(position, position + tokens, device=device))


def recipe(pattern: str = "2:4") -> dict[str, Any]:
    """Every linear of the blocks; the head, whose outputs are compared with each other, stays dense."""
    return prune_and_pack([r"re:blocks\..*"], pattern, 0.5)


def _angles(shape: Shape) -> Tensor:
    """[tokens, head_dim]"""
    frequencies = _THETA ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    return torch.outer(torch.arange(shape.tokens), frequencies).repeat(1, 2)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
