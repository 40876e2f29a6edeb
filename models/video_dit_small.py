"""A small video diffusion transformer with weights of our own, from `python -m models.train.video_dit_small`: 8 layers × 192 (3 heads of
64), 3.9 M parameters. From a caption it makes 16 frames of 64 × 64 pixels: shapes and digits that move over a background (`_clips.py`).

It is built as CogVideoX (Yang et al. 2024) is: text and patches stand in one sequence, text first, and attend to each other; q and k are
normalized and turned by the token's frame, row and column; the time of the diffusion scales, shifts and gates every layer (adaLN-single,
Chen et al. 2023, PixArt-α). It works on pixels, without an autoencoder, and gives the velocity of a rectified flow (Liu et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models._clips import FRAMES, PIXELS, TEXT, WORDS, clips, tokens
from models._rotary import angles, turned
from models._weights import trained

PATCH = (2, 4, 4)  # frames, rows, columns
GRID = (FRAMES // PATCH[0], PIXELS // PATCH[1], PIXELS // PATCH[2])
SHAPE = (3, FRAMES, PIXELS, PIXELS)
WIDTH = 192
LAYERS = 8
HEADS, HEAD_DIM = 3, 64
PAIRS = (8, 12, 12)  # rotated pairs for frames, rows, columns
STEPS = 24  # of the sampler
GUIDANCE = 2.5
SHIFT = 2.0  # more of the steps lie where noise is strong (Esser et al. 2024)
HELD_OUT = (
    "red circle moves right , blue 7 races up on rows",
    "yellow square races left , green 3 moves down on columns",
    "white triangle moves up on clouds",
    "cyan cross races down , orange 8 moves right , magenta circle moves left on plain",
    "green 5 races right , red square moves up on columns",
    "magenta 2 moves left , white cross races down on rows",
)
_SEED = 2026
_FREQUENCIES = 32  # of the time's embedding
_PATCH_NUMBERS = 3 * PATCH[0] * PATCH[1] * PATCH[2]

Inputs = tuple[Tensor, Tensor, Tensor]
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


class VideoDitSmall(nn.Module):
    """(video f32[batch, *SHAPE], text int64[batch, TEXT], time f32[batch] from 0, clean, to 1, noise) -> velocity f32[batch, *SHAPE]."""

    frequencies: Tensor

    def __init__(self, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS) -> None:
        super().__init__()
        self.patch = nn.Linear(_PATCH_NUMBERS, width)
        self.words = nn.Embedding(len(WORDS), width)
        self.places = nn.Parameter(torch.zeros(TEXT, width))
        self.time1, self.time2 = nn.Linear(2 * _FREQUENCIES, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(VideoBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.table = nn.Parameter(torch.zeros(2, width))
        self.unpatch = nn.Linear(width, _PATCH_NUMBERS)
        frequencies = 2 * torch.pi * 100 ** (torch.arange(_FREQUENCIES) / (_FREQUENCIES - 1) - 0.5)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, video: Tensor, text: Tensor, time: Tensor) -> Tensor:
        phases = time[:, None] * self.frequencies
        embedded = self.time2(F.silu(self.time1(torch.cat([phases.cos(), phases.sin()], 1))))
        modulation = self.modulation(F.silu(embedded)).unflatten(1, (6, -1))
        shift, scale = (embedded.unsqueeze(1) + self.table).unsqueeze(2).unbind(1)
        x = torch.cat([self.words(text) + self.places, self.patch(patches(video))], 1)
        for block in self.blocks:
            x = block(x, modulation)
        return video_of(self.unpatch(self.norm(x[:, TEXT:]) * (1 + scale) + shift))


class VideoBlock(nn.Module):
    """(x [batch, tokens, width], modulation [batch, 6, width]) -> x."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = JointAttention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.table = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table).unsqueeze(2).unbind(1)
        x = x + gate1 * self.attention(self.attention_norm(x) * (1 + scale1) + shift1)
        hidden = F.gelu(self.up(self.mlp_norm(x) * (1 + scale2) + shift2), approximate="tanh")
        return x + gate2 * self.down(hidden)


class JointAttention(nn.Module):
    """x[batch, TEXT + patches, width] -> the same shape."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.query_norm, self.key_norm = nn.LayerNorm(HEAD_DIM), nn.LayerNorm(HEAD_DIM)
        turns = angles(GRID, TEXT, PAIRS)
        self.register_buffer("cos", turns.cos(), persistent=False)
        self.register_buffer("sin", turns.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        q, k = turned(self.query_norm(q), self.cos, self.sin), turned(self.key_norm(k), self.cos, self.sin)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def build() -> nn.Module:
    """With its trained weights."""
    return trained(VideoDitSmall(), "video_dit_small")


def example_inputs(batch: int = 1) -> Inputs:
    """(video, text, time), as the model meets them in training."""
    video, text, time = (torch.cat(parts) for parts in zip(*calibration(batch), strict=True))
    return video, text, time


def calibration(count: int) -> Iterator[Inputs]:
    """Clips under noise, one each, at times from 0.9 down to 0.1: a rectified flow's sampler has states of this distribution."""
    for i in range(count):
        generator = torch.Generator().manual_seed(_SEED + i)
        video, text = clips(1, generator)
        time = torch.tensor([0.9 - 0.2 * (i % 5)])
        yield torch.lerp(video, torch.randn(video.shape, generator=generator), time[:, None, None, None, None]), text, time


def recipe(density: float = 0.3) -> dict[str, Any]:
    """The attention, reordered; needs `calibration`."""
    return {"passes": [{"reorder_tokens": {"grid": list(GRID), "text_tokens": TEXT, "text_first": True, "density": density}}]}


def sample(
    model: Velocity, captions: Sequence[str], noise: Tensor, steps: int = STEPS, seen: Callable[[Inputs], None] | None = None
) -> Tensor:
    """f32[captions, *SHAPE] from noise of that shape, by Euler's method and classifier-free guidance (Ho and Salimans 2022).

    seen: called with what goes into the model at each step: the captions' videos, then those of no caption.
    """
    text = torch.stack([tokens(caption) for caption in captions]).to(noise.device)
    both = torch.cat([text, torch.zeros_like(text)])
    video, times = noise, times_of(steps)
    for now, then in pairwise(times):
        inputs = torch.cat([video, video]), both, torch.full((len(both),), now, device=noise.device)
        if seen is not None:
            seen(inputs)
        told, free = model(*inputs).chunk(2)
        video = video + (then - now) * (free + GUIDANCE * (told - free))
    return video


def noise_of(seeds: Iterable[int], device: torch.device | str = "cpu") -> Tensor:
    """f32[seeds, *SHAPE], the same on every device."""
    return torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(device)


def times_of(steps: int) -> list[float]:
    """From 1, noise, to 0: steps + 1 of them."""
    even = [1 - i / steps for i in range(steps + 1)]
    return [SHIFT * time / (1 + (SHIFT - 1) * time) for time in even]


def patches(video: Tensor) -> Tensor:
    """[batch, *SHAPE] -> [batch, patches, numbers of a patch], in raster order."""
    (frames, height, width), (f, h, w) = GRID, PATCH
    parts = video.reshape(-1, 3, frames, f, height, h, width, w)
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, frames * height * width, _PATCH_NUMBERS)


def video_of(x: Tensor) -> Tensor:
    """What `patches` takes apart."""
    (frames, height, width), (f, h, w) = GRID, PATCH
    parts = x.reshape(-1, frames, height, width, 3, f, h, w)
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, *SHAPE)
