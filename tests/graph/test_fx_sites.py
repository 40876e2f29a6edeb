"""What sites are called, on this host and the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsecc.graph.fx import FxGraph
from sparsecc.graph.fx_sites import mlp_name
from sparsecc.graph.sites import Linear


def _named(name: str) -> Linear:
    return Linear(name=name, stored=torch.zeros(1, 1))


def test_an_mlp_is_called_after_the_module_that_holds_it() -> None:
    assert mlp_name(_named("layers.0.mlp.fc1"), _named("layers.0.mlp.fc2")) == "layers.0.mlp"
    assert mlp_name(_named("layer.0.intermediate.dense"), _named("layer.0.output.dense")) == "layer.0.mlp"
    assert mlp_name(_named("fc1"), _named("fc2")) == "mlp"


def test_names_are_unique_and_outlive_rewrites() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.fc_1 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc_1(self.fc(self.fc(x)))

    graph = FxGraph.from_module(Repeated(), (torch.randn(2, 4),))
    names = [site.name for site in graph.sites()]
    assert names == ["fc", "fc_1", "fc_1_1"]
    graph.set_weight(graph.sites(Linear)[2], torch.zeros(4, 4))
    assert [site.name for site in graph.copy().sites()] == names


def test_only_an_mlp_whose_neurons_nobody_else_reads() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            neurons = self.fc1(x).relu()
            return self.fc2(neurons) + neurons

    graph = FxGraph.from_module(Peeking(), (torch.randn(2, 4),))
    assert [site.kind for site in graph.sites()] == ["Linear", "Linear"]
