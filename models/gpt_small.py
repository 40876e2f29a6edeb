"""A small GPT over characters with weights of our own, from `python -m models.train.gpt_small`: 4 layers × 128, 0.8 M parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models._recipes import prune_and_pack
from models._text import CHARACTERS, corpus, windows
from models._transformer import Block
from models._weights import trained

TOKENS = 128
WIDTH = 128
LAYERS = 4
HEADS = 4


class GptSmall(nn.Module):
    """ids int64[batch, tokens up to 128] -> logits f32[batch, tokens, 96] of the character that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(CHARACTERS), WIDTH)
        self.positions = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, causal=True) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build() -> nn.Module:
    """With its trained weights."""
    return trained(GptSmall(), "gpt_small")


def example_inputs(batch: int = 1) -> tuple[Tensor]:
    """(ids,), int64[batch, 128]."""
    return (torch.cat([ids for (ids,) in calibration(batch)]),)


def calibration(count: int) -> Iterator[tuple[Tensor]]:
    """Windows of the text that it was trained on, one each, from all over it."""
    for window in training_windows(count):
        yield (window[None],)


def training_windows(count: int) -> Tensor:
    """int64[count, 128], in a fixed shuffled order."""
    every = windows(corpus(held_out=False), TOKENS)
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:count]]


def held_out(count: int) -> Tensor:
    """int64[count, 129]: windows of text that it has not seen, the first `count`; the last character is only to be guessed."""
    return windows(corpus(held_out=True), TOKENS + 1)[:count]


def recipe(pattern: str = "unstructured", sparsity: float = 0.5) -> dict[str, Any]:
    """Every linear of the blocks; the head, whose outputs are compared with each other, stays dense."""
    return prune_and_pack([r"re:blocks\..*"], pattern, sparsity)
