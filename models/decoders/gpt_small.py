"""The small GPT of `gpt_small`, one step at a time with a cache, and the loop that writes text with it.

python -m models.decoders.gpt_small "A function is"
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import gpt_small
from models._cache import Cache, seen_at
from models._recipes import prune_and_pack
from models._text import decode, encode
from models._transformer import Block
from models.gpt_small import HEADS, TOKENS, WIDTH, GptSmall

Step = Callable[[Tensor, Tensor], Tensor]


class GptDecoder(nn.Module):
    """ids int64[1, new], positions int64[new] -> logits [1, new, 96]; keys and values stay in buffers, of 128 characters in all."""

    def __init__(self, trained: GptSmall) -> None:
        super().__init__()
        self.characters, self.positions, self.blocks, self.norm, self.head = (
            trained.characters,
            trained.positions,
            trained.blocks,
            trained.norm,
            trained.head,
        )
        self.caches = nn.ModuleList(Cache(HEADS, TOKENS, WIDTH // HEADS) for _ in self.blocks)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        x, seen = self.characters(ids) + self.positions[positions], seen_at(positions, TOKENS)
        for block, cache in zip(self.blocks, self.caches, strict=True):
            assert isinstance(block, Block)
            x = x + _attended(block.attention, cache, block.attention_norm(x), positions, seen)
            x = x + block.down(F.gelu(block.up(block.mlp_norm(x))))
        return self.head(self.norm(x))


def build(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """With its trained weights."""
    trained = gpt_small.build()
    assert isinstance(trained, GptSmall)
    return GptDecoder(trained).to(dtype).eval().requires_grad_(False)


def example_inputs() -> tuple[Tensor, Tensor]:
    """(ids, positions) of one character."""
    return encode("A")[None], torch.tensor([0])


def generate(step: Step, prompt: str, characters: int = 64, device: str = "cpu") -> str:
    """What the model writes after a prompt, the likeliest character each time. step: the decoder, compiled or not, with an empty cache."""
    if not 0 < len(prompt) <= len(prompt) + characters <= TOKENS:
        raise ValueError(f"a prompt of 1 character at least, and {TOKENS} with what is written after it")
    ids = encode(prompt).to(device)
    logits = torch.empty(0)
    for position in range(len(ids)):
        logits = step(ids[None, position : position + 1], torch.tensor([position], device=device))
    for position in range(len(ids), len(prompt) + characters):
        ids = torch.cat([ids, logits[0, -1:].argmax(-1)])
        logits = step(ids[None, -1:], torch.tensor([position], device=device))
    return decode(ids.cpu())


def recipe(pattern: str = "2:4") -> dict[str, Any]:
    """Every linear of the blocks."""
    return prune_and_pack([r"re:blocks\..*"], pattern, 0.5)


def _attended(attention: Any, cache: nn.Module, x: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
    q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (attention.query, attention.key, attention.value))
    return attention.out(cache(q, k, v, positions, seen).transpose(1, 2).flatten(-2))


if __name__ == "__main__":
    with torch.no_grad():
        print(generate(build(), sys.argv[1] if len(sys.argv) > 1 else "A function is"))
