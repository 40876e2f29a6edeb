"""Channels of torch graphs: through rotary embeddings and flattened tokens; refused wherever something else depends on them."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import Refused
from sparsecc.graph.channels import Channels
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention, Linear, Mlp
from tests.graph.heads import FOLLOWED, Bare, Gated, Heads, Mixed, OneLayer, Slopes, Transposed, Twice, Unprojected, X
from tests.tolerance import assert_close


def traced(module: nn.Module) -> FxGraph:
    return FxGraph.from_module(module.eval(), (X,))


@pytest.mark.parametrize("module", FOLLOWED)
def test_without_a_head_as_with_zeros_in_what_reads_it(module: type[Heads]) -> None:
    whole = traced(module())
    [site] = whole.sites(Attention)
    channels = whole.channels(site)
    assert isinstance(channels, Channels)
    assert ([layer.name for layer in channels.layers], channels.units) == (["q", "k", "v", "out"], 4)
    stay = torch.tensor([0, 2, 3])
    columns = channels.columns(stay)
    oracle, smaller = whole.copy(), whole.copy()
    weight = torch.zeros_like(channels.reader.weight)
    weight[:, columns] = channels.reader.weight[:, columns]
    oracle.set_weight(channels.reader, weight)
    smaller.narrow(site, stay, weight[:, columns], None)
    for x in (X, torch.randn(3, 4, 24)):
        assert_close(smaller.run((x,)).outputs[0], oracle.run((x,)).outputs[0])
    assert [found.heads for found in smaller.sites(Attention)] == [3]
    assert [layer.shape for layer in smaller.sites(Linear)] == [(18, 24), (18, 24), (18, 24), (24, 18)]
    assert [found.heads for found in whole.sites(Attention)] == [4]
    again = FxGraph.from_exported(smaller.exported())
    assert_close(again.run((X,)).outputs[0], smaller.run((X,)).outputs[0])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Slopes, "mask differs from head to head"),
        (Gated, "operand with a value for each channel"),
        (Mixed, r"layer_norm.* reads its channels"),
        (Bare, "reads its channels"),
        (Unprojected, "one linear layer each"),
        (OneLayer, "come from one layer"),
        (Twice, "2 layers read its channels"),
        (Transposed, "does not read its channels as columns"),
    ],
)
def test_refused(module: type[Heads], reason: str) -> None:
    whole = traced(module())
    [site] = whole.sites(Attention)
    found = whole.channels(site)
    assert isinstance(found, Refused)
    assert re.search(reason, found.reason), found.reason


def test_a_weight_that_is_stored_transposed() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(24, 10)), nn.Parameter(torch.randn(10, 8))
            self.bias = nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.first).relu() @ self.second + self.bias

    whole = traced(Turned())
    [site] = whole.sites(Mlp)
    stay = torch.arange(1, 10, 2)
    smaller = whole.copy()
    smaller.narrow(site, stay, site.second.weight[:, stay], torch.zeros(8))
    module = Turned()
    module.load_state_dict({"first": site.first.weight.T, "second": site.second.weight.T, "bias": torch.zeros(8)})
    with torch.no_grad():
        module.second[::2] = 0
        assert_close(smaller.run((X,)).outputs[0], module(X))
    assert [layer.shape for layer in smaller.sites(Linear)] == [(5, 24), (8, 5)]
