"""One block of a video diffusion transformer (as in CogVideoX, Yang et al. 2024), random weights: 8 heads × 48 over 7 × 16 × 24 patches
and 77 text tokens, in one sequence.

Trained video models look along axes: a head attends to the same place in other frames, to its row, to its neighbourhood. So do these
heads: the biases of q and k, which rotary embedding turns by the token's place along each axis, make every head's map sharp along one
axis, soft along another and flat along the third. The weights add noise that depends on the content.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._random import SEED, randomize
from models._rotary import angles, turned

GRID = (7, 16, 24)  # frames, height, width
TEXT = 77
CHANNELS = 16  # of a latent
HEADS, HEAD_DIM = 8, 48
WIDTH = HEADS * HEAD_DIM
PAIRS = HEAD_DIM // 6  # rotated pairs for each axis
SHARP, SOFT, FLAT = 2.4, 1.5, 0.3  # size of the biases along a head's three axes
ORDERS = tuple(itertools.permutations((0, 1, 2)))


class VideoBlock(nn.Module):
    """(latents f32[batch, CHANNELS, *GRID], text f32[batch, TEXT, WIDTH]) -> f32[batch, CHANNELS, *GRID]."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(CHANNELS, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = JointAttention()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.unpatch = nn.Linear(WIDTH, CHANNELS)

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        x = torch.cat([text, self.patch(latents.flatten(2).transpose(1, 2))], dim=1)
        x = x + self.attn(self.norm1(x))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x)), approximate="tanh"))
        return self.unpatch(x[:, TEXT:]).transpose(1, 2).unflatten(2, GRID)


class JointAttention(nn.Module):
    """Text and patches attend to each other; rotary embedding turns the patches."""

    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        turns = angles(GRID, TEXT, (PAIRS, PAIRS, PAIRS))
        self.register_buffer("cos", turns.cos())
        self.register_buffer("sin", turns.sin())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(turned(q, self.cos, self.sin), turned(k, self.cos, self.sin), v)
        return self.out(y.transpose(1, 2).flatten(2))


def build() -> nn.Module:
    block = randomize(VideoBlock())
    assert isinstance(block, VideoBlock)
    with torch.no_grad():
        for layer in (block.attn.query, block.attn.key):
            layer.weight.mul_(0.3)
            layer.bias.copy_(_biases())
    return block


def example_inputs(batch: int = 1) -> tuple[Tensor, Tensor]:
    """(latents, text), normal deviates."""
    return tuple(torch.cat(parts) for parts in zip(*calibration(batch), strict=True))  # type: ignore[return-value]


def calibration(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One video each."""
    for i in range(count):
        generator = torch.Generator().manual_seed(SEED + i)
        yield torch.randn(1, CHANNELS, *GRID, generator=generator), torch.randn(1, TEXT, WIDTH, generator=generator)


def recipe(density: float = 0.3) -> dict[str, Any]:
    """The attention, reordered; needs `calibration`."""
    return {"passes": [{"reorder_tokens": {"grid": list(GRID), "text_tokens": TEXT, "text_first": True, "density": density}}]}


def order_of(head: int) -> tuple[int, ...]:
    """The axes along which a head's map is sharp, soft and flat, as AXIS_ORDERS has them. Its map is blocky in this order, and where
    two axes together fit a block, in their other order too."""
    return ORDERS[head % len(ORDERS)]


def _biases() -> Tensor:
    """[WIDTH]: the same for q and k, so that a token's own place is where its score is highest."""
    biases = torch.zeros(HEADS, 2, 3, PAIRS)
    for head in range(HEADS):
        for axis, size in zip(order_of(head), (SHARP, SOFT, FLAT), strict=True):
            biases[head, :, axis] = size
    return biases.reshape(-1)
