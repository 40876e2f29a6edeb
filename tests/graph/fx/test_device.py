"""A graph on another device. `meta` is one that every machine has, and that no operator mixes with the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from tests.laws.hosts import MODELS, graph, model


class Positions(nn.Module):
    """Tied weights, a constant, and operators that make tensors."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.rand(16), persistent=False)
        self.offset = torch.rand(16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.arange(x.shape[1], device=x.device)
        mask = torch.full((x.shape[1], x.shape[1]), -1.0, device=x.device).triu(1) + (tokens[:, None] < tokens)
        return mask @ self.second(self.first(x * self.scale + self.offset).relu())


@pytest.mark.parametrize("name", [*MODELS, "positions"])
def test_it_runs_where_its_weights_lie(name: str) -> None:
    module, x = (Positions().eval(), torch.randn(2, 5, 16)) if name == "positions" else model(name)
    here = FxGraph.from_module(module, (x,))
    there = here.to("meta")
    names = [site.name for site in here.sites(WeightSite)]
    wanted, run = here.run((x,), names), there.run((x,), names)
    assert there.device.type == "meta"
    assert [(y.shape, y.dtype, y.device.type) for y in run.outputs] == [(y.shape, y.dtype, "meta") for y in wanted.outputs]
    assert all(entering.is_meta for tensors in run.taps.values() for entering in tensors)
    assert [name for name, _ in there.walk([(x,), (x,)], names)] == names
    assert here.device.type == "cpu"
    assert torch.equal(here.run((x,)).outputs[0], wanted.outputs[0])


def test_a_copy_on_the_same_device_gives_the_same() -> None:
    module, x = Positions().eval(), torch.randn(2, 5, 16)
    here = FxGraph.from_module(module, (x,))
    again = here.to("cpu")
    assert torch.equal(again.run((x,)).outputs[0], here.run((x,)).outputs[0])
    assert [site.shared for site in again.sites(WeightSite)] == [site.shared for site in here.sites(WeightSite)] == [True, True]
    assert [p.requires_grad for p in again.module.parameters()] == [p.requires_grad for p in here.module.parameters()]


def test_weights_that_are_set_come_where_the_graph_is() -> None:
    there = graph("fx", "transformer").to("meta")  # type: ignore[attr-defined]
    [site] = there.sites(WeightSite, ("fc1",))
    there.set_weight(site, torch.zeros(site.shape))
    assert there.sites(WeightSite, ("fc1",))[0].weight.is_meta
