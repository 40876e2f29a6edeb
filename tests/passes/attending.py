"""A model of images with two attentions, whose heads lose much or nothing when blocks are left out."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.laws.hosts import HOSTS

SIDE, CHANNELS = 12, 3
GRID, BLOCK = (1, SIDE, SIDE), SIDE  # a block is a row of the image
HEADS, BLOCKS = 2, SIDE
_SHARP = 6.0  # with which a row looks at itself: e^10 against 1


class Attending(nn.Module):
    """x: [1, CHANNELS, SIDE, SIDE] -> the same shape. The first head of the first attention looks everywhere alike, all others within
    rows."""

    def __init__(self) -> None:
        super().__init__()
        rows = _SHARP * torch.eye(SIDE).repeat_interleave(SIDE, 0)
        self.register_buffer("first", torch.stack([torch.zeros_like(rows), rows])[None])
        self.register_buffer("second", torch.stack([rows, rows])[None])
        self.a, self.b = _Part(), _Part()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.a(tokens, self.first)
        tokens = tokens + self.b(tokens, self.second)
        return tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE))


class Stepping(nn.Module):
    """With a timestep, of 0 to 1000. At its end heads look within rows, at 0 everywhere alike; or it changes nothing."""

    rows: Tensor

    def __init__(self, changes: bool = True) -> None:
        super().__init__()
        rows = _SHARP * torch.eye(SIDE).repeat_interleave(SIDE, 0)
        self.register_buffer("rows", torch.stack([rows, rows])[None])
        self.changes, self.a, self.b = changes, _Part(), _Part()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        looks = self.rows * (timestep / 1000 if self.changes else 1 + 0 * timestep)
        tokens = tokens + self.a(tokens, looks)
        tokens = tokens + self.b(tokens, looks)
        return tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE))


class _Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(CHANNELS, HEADS * SIDE) for _ in range(3))
        self.out = nn.Linear(HEADS * SIDE, CHANNELS)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=1e-3)

    def forward(self, x: Tensor, looks: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (HEADS, SIDE)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(functional.scaled_dot_product_attention(looks + q, looks + k, v).transpose(1, 2).flatten(2))


def image(seed: int) -> Tensor:
    """Brighter from row to row, under noise."""
    noise = torch.rand(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return noise + torch.linspace(0, 2, SIDE)[:, None]


@cache
def graph(host: str) -> Graph:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HOSTS[host](Attending().eval(), image(0))


@cache
def stepping(host: str, changes: bool = True) -> Graph:
    """Inputs are x and timestep."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, given = Stepping(changes).eval(), (image(0), torch.tensor([500.0]))
    if host == "fx":
        return FxGraph.from_module(module, given)
    program = torch.onnx.export(module, given, dynamo=True, verbose=False)
    assert program is not None
    return OnnxGraph.from_proto(program.model_proto)
