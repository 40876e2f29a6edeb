"""Where a model is cut: a block's layers all have a say in what leaves it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite

WIDTH = 16


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self.qkv(h).unflatten(-1, (3, WIDTH)).unbind(-2) if self.fused else (self.query(h), self.key(h), self.value(h))
        return x + self.out(functional.scaled_dot_product_attention(q, k, v))


class Gated(nn.Module):
    """One layer gives gate and value, which `chunk` takes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.gelu(gate) * value)


class Timed(nn.Module):
    """An embedding of the time that every block reads, by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.time1, self.time2, self.first = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.shifts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mlps = nn.ModuleList(Gated() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        time = self.time2(functional.silu(self.time1(x[:, :1, :1])))
        x = self.first(x)
        for shift, mlp in zip(self.shifts, self.mlps, strict=True):
            x = mlp(x + shift(time))
        return x


class Skips(nn.Module):
    """Down, through six layers, and up, with what was there on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(10))

    def forward(self, x: Tensor) -> Tensor:
        down = [x := functional.relu(layer(x)) for layer in self.layers[:2]][-1]
        for layer in self.layers[2:8]:
            x = functional.relu(layer(x))
        return self.layers[9](functional.relu(self.layers[8](x + down)))


class Several(nn.Module):
    """Gives what is in the middle, too, and an index."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middle = self.layers[2](functional.relu(self.layers[1](functional.relu(self.layers[0](x)))))
        last = self.layers[5](functional.relu(self.layers[4](functional.relu(self.layers[3](middle)))))
        return middle, last, last.argmax(-1)


def stack(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *parts)


MODELS = {
    "fused": lambda: stack(Attention(True), Gated(), Attention(True), Gated()),
    "apart": lambda: nn.Sequential(nn.LayerNorm(WIDTH), Attention(False), Gated(), Attention(False), Gated()),
    "timed": Timed,
    "skips": Skips,
    "several": Several,
}
EXPECTED = {
    "fused": [["0", "qkv", "out"], ["up", "down"], ["qkv", "out"], ["up", "down"]],
    "apart": [["query", "key", "value", "out"], ["up", "down"], ["query", "key", "value", "out"], ["up", "down"]],
    "timed": [["time1", "time2"], ["first", "0"], ["up", "down"], ["1", "up", "down"], ["2", "up", "down"]],
    "skips": [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]],
    "several": [["0", "1"], ["2", "3"], ["4", "5"]],
}


def blocks_of(name: str) -> tuple[FxGraph, list[tuple[Tensor]]]:
    torch.manual_seed(0)
    x = [(torch.randn(2, 5, WIDTH),) for _ in range(2)]
    return FxGraph.from_module(MODELS[name]().eval(), x[0]), x


@pytest.mark.parametrize("name", MODELS)
def test_blocks_end_where_one_tensor_leaves(name: str) -> None:
    graph, x = blocks_of(name)
    assert [[site.rpartition(".")[2] for site in block.sites] for block in graph.blocks(x)] == EXPECTED[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_a_gradient_in_its_block(name: str) -> None:
    graph, x = blocks_of(name)
    sites = {site.name: site for site in graph.sites(WeightSite)}
    for block in graph.blocks(x):
        given = {site: (sites[site].weight.detach().clone().requires_grad_(), None) for site in block.sites}
        sum((y.square().sum() for y in block.run(1, given)), torch.zeros(())).backward()
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight, _ in given.values())


def test_what_the_caller_reads_leaves_its_block() -> None:
    graph, x = blocks_of("several")
    found = [block.run(0, {}) for block in graph.blocks(x)]
    middle, last, _ = graph.run(x[0]).outputs
    assert [len(values) for values in found] == [1, 2, 1]
    torch.testing.assert_close(found[1][0], middle)
    torch.testing.assert_close(found[2][0], last)
