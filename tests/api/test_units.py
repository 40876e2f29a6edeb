"""Which layers become narrower together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.api.trials import Trials
from sparsecc.api.units import Group, groups
from sparsecc.graph.base import Graph
from sparsecc.graph.inputs import bind
from sparsecc.graph.sites import Linear
from tests.laws.hosts import HOSTS, graph


class Chain(nn.Module):
    """Two Mlps with a layer in common, and one with a single neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(32, 64), nn.Linear(64, 48), nn.Linear(48, 32)
        self.up, self.down = nn.Linear(32, 1), nn.Linear(1, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(functional.gelu(self.b(torch.relu(self.a(x)))))
        return x + functional.layer_norm(y, (32,)) + self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("host", HOSTS)
def test_of_a_transformer(host: str) -> None:
    attention, mlp = groups(graph(host, "transformer")).values()
    assert (attention.kind, attention.layers, attention.units) == ("heads", ("query", "key", "value", "out"), 4)
    assert (mlp.kind, mlp.layers, mlp.units, mlp.reader) == ("neurons", ("fc1", "fc2"), 128, "fc2")


def test_a_layer_is_in_one_group() -> None:
    trials = Trials.open(Chain().eval(), torch.randn(4, 32), threads=1)
    assert list(trials.groups.values()) == [Group("mlp", "neurons", ("a", "b"), 64)]


def linear(graph: Graph, name: str, x: Tensor) -> Tensor:
    [site] = graph.sites(Linear, (name,))
    return functional.linear(x, site.weight, site.bias)


def test_errors_of_each_group_alone() -> None:
    torch.manual_seed(0)
    trials = Trials.open(Chain().eval(), torch.randn(64, 32), threads=1)
    samples = [bind(trials.graph.inputs, (torch.randn(64, 32),)) for _ in range(4)]
    [(name, errors)] = trials.removal_errors((0.25, 0.5, 0.9), samples, criterion="obs", round_to=16).items()
    assert name == "mlp" and 0 < errors[0.25] < errors[0.5] < errors[0.9] < 1
    layers = trials.rewritten({"passes": [{"structured": {"targets": ["mlp"], "neurons": 0.5, "criterion": "obs"}}]}, samples)
    x = torch.cat([x for (x,) in samples])
    whole, fewer = (linear(graph, "b", torch.relu(linear(graph, "a", x))) for graph in (trials.graph, layers))
    [b] = trials.graph.sites(Linear, ("b",))
    assert b.bias is not None
    whole, fewer = whole - b.bias, fewer - b.bias  # the errors are relative to what the weights give
    assert float((whole - fewer).norm() / whole.norm()) == pytest.approx(errors[0.5], rel=1e-3)


def test_what_cannot_lose_anything_is_left_out() -> None:
    trials = Trials.open(Chain().eval(), torch.randn(4, 32), threads=1)
    assert trials.removal_errors((0.1,), [bind(trials.graph.inputs, (torch.randn(4, 32),))], criterion="obs", round_to=64) == {}
