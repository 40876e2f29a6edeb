"""The block that our own small models are made of: attention and an Mlp, each behind a norm and added to the stream (Xiong et al. 2020)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """x[batch, tokens, width] -> the same shape. causal: a token sees itself and those before it."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            layer(x).view(batch, tokens, self.heads, width // self.heads).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """As Attention. The Mlp is four times as wide."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


def initialized(module: nn.Module) -> nn.Module:
    """Matrices and embeddings with a standard deviation of 0.02 (as GPT-2's), smaller where a block adds to the stream, biases zero."""
    into_stream = 2 * sum(isinstance(m, Block) for m in module.modules())
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            added = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=0.02 / into_stream**0.5 if added else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return module
