"""Linear layers however a module spells them: one site each, and the module's own outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear, WeightSite
from tests.tolerance import assert_close


class Spelt(nn.Module):
    """Heads in and out by einsum, as in a Keras or T5X attention, a batched matrix of one, a weight that comes first, experts."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Parameter(torch.randn(2, 8, 3)), nn.Parameter(torch.randn(2, 3, 8))
        self.batched, self.first = nn.Parameter(torch.randn(1, 8, 4)), nn.Parameter(torch.randn(6, 8))
        self.experts = nn.Parameter(torch.randn(5, 8, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        heads = torch.einsum("btd,hdk->bhtk", x, self.into)
        y = torch.einsum("bhtk,hkd->btd", heads.relu(), self.out)
        return y, x @ self.batched, torch.einsum("od,btd->bot", self.first, x), torch.einsum("btd,tdo->bto", x, self.experts)


def test_each_is_a_site_and_computes_the_same() -> None:
    module, x = Spelt(), torch.randn(2, 5, 8)
    graph = FxGraph.from_module(module, (x,))
    sites = graph.sites(WeightSite)
    assert [(type(site), site.shape) for site in sites] == [(Linear, (6, 8)), (Linear, (8, 6)), (Linear, (4, 8)), (Linear, (6, 8))]
    assert not any(site.constant for site in sites)
    assert [weight.name for weight in graph.unseen()] == ["experts"]
    for found, expected in zip(graph.run((x,)).outputs, module(x), strict=True):
        assert_close(found, expected)
    wider = torch.randn(3, 5, 8)
    assert_close(graph.run((wider,)).outputs[0], module(wider)[0])
    graph.set_weight(sites[0], torch.zeros(6, 8))
    assert not graph.run((x,)).outputs[0].any()
