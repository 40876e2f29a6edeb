from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.errors import UserError
from sparsecc.graph.fx.untraced import UntracedGraph, outputs
from sparsecc.graph.sites import Conv2d, Linear, WeightSite


def test_layers_are_the_modules_and_a_copy_shares_what_it_does_not_change() -> None:
    conv = nn.Conv2d(4, 8, 3)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(8, 6), nn.Linear(8, 6))
    model[3].weight = model[2].weight
    graph = UntracedGraph(model)
    assert [(site.name, site.weight_name, site.shared) for site in graph.sites(WeightSite)] == [
        ("0", "0.weight", False),
        ("2", "2.weight", True),
        ("3", "2.weight", True),
    ]
    [site] = graph.sites(Conv2d)
    other = graph.copy()
    other.set_weight(site, torch.zeros(site.shape))
    assert conv.weight.all()
    assert not other.module[0].weight.any()  # type: ignore[index]
    assert other.module[2].weight is model[2].weight  # type: ignore[index]


def test_a_convolution_of_lines_and_what_is_not_looked_at() -> None:
    graph = UntracedGraph(nn.Sequential(nn.Conv1d(4, 8, 3), nn.Embedding(10, 4)))
    [site] = graph.sites(WeightSite)
    assert (site.kind, site.rows, site.cols) == ("Conv1d", 8, 12)
    [weight] = graph.unseen()
    assert (weight.name, weight.kind, weight.shape) == ("1.weight", "Embedding", (10, 4))


def test_a_model_that_is_a_layer() -> None:
    [site] = UntracedGraph(nn.Linear(8, 6)).sites(Linear)
    assert (site.name, site.weight_name) == ("Linear", "weight")


def test_what_needs_more_than_weights_is_refused() -> None:
    graph = UntracedGraph(nn.Sequential(nn.Linear(8, 6)))
    with pytest.raises(UserError, match="example_inputs: needed to trace Sequential"):
        graph.run([torch.ones(1, 8)])
    with pytest.raises(UserError, match="layer '0': its weight has no shape yet"):
        UntracedGraph(nn.Sequential(nn.LazyLinear(6))).sites()


def test_what_a_module_gives() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    [once], [twice] = outputs(model, torch.ones(2, 4)), outputs(model, {"input": torch.ones(2, 4).numpy()})
    assert torch.equal(once, twice)
    assert model.training
    assert model[1].training
