"""Weights of a torch model that are no sites: what they are called and why."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite


class Mixed(nn.Module):
    """A layer of each kind that no pass takes, two that it does, and constants."""

    scale: Tensor
    rounded: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(10, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.recurrent, self.fc = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)
        self.experts = nn.Parameter(torch.randn(6, 8, 4))
        self.chosen, self.turned = nn.Parameter(torch.randn(10, 8, 4)), nn.Parameter(torch.randn(6, 4, 8))
        self.volume, self.up = nn.Conv3d(2, 4, 3), nn.ConvTranspose1d(8, 4, 4, 2, 1)
        self.register_buffer("mel", torch.rand(8, 5))
        self.register_buffer("scale", torch.tensor(0.1))
        self.register_buffer("rounded", torch.randint(-9, 9, (4096, 8), dtype=torch.int8))  # too large to be folded

    def forward(self, ids: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        x, _ = self.recurrent(self.table(ids) + self.place)
        y = self.fc(x)
        rounded = functional.linear(y, self.rounded * self.scale)
        experts = (
            torch.einsum("bei,eio->beo", y, self.experts),
            (y.unsqueeze(2) @ self.chosen[ids]).squeeze(2),
            torch.bmm(y.transpose(0, 1), self.turned.transpose(1, 2)),
        )
        return rounded, *experts, self.up(x.transpose(1, 2)), self.volume(image), x @ self.mel


def test_what_no_pass_takes_is_named_with_its_reason() -> None:
    module = Mixed().eval()
    graph = FxGraph.from_module(module, (torch.randint(0, 10, (2, 6)), torch.randn(1, 2, 4, 4, 4)))
    unseen = {weight.name: weight for weight in graph.unseen()}
    assert {name: weight.kind for name, weight in unseen.items()} == {
        "table": "Embedding",
        "place": "add",
        "recurrent.weight_ih_l0": "LSTM",
        "recurrent.weight_hh_l0": "LSTM",
        "experts": "Einsum",
        "chosen": "BatchedMatMul",
        "turned": "BatchedMatMul",
        "volume": "Conv3d",
        "up": "ConvTranspose1d",
        "rounded": "Linear",
    }
    assert unseen["rounded"].reason == "int8, not floating point: it was quantized before"
    assert (unseen["experts"].shape, unseen["experts"].nbytes) == ((6, 8, 4), 6 * 8 * 4 * 4)
    assert unseen["volume"].reason == "3-D convolutions have no sparse operator"
    assert [(site.name, site.constant) for site in graph.sites(WeightSite)] == [("fc", False), ("mel", True)]
    trained = [tensor for tensor in module.parameters() if tensor.dim() > 1]
    seen = [weight.nbytes for weight in unseen.values() if weight.name != "rounded"] + [module.fc.weight.nbytes]
    assert sum(seen) == sum(tensor.nbytes for tensor in trained), "together all weights"


def test_a_frozen_weight_is_no_constant_not_even_after_a_batch_norm_was_folded() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)))
    graph = FxGraph.from_module(module.eval().requires_grad_(False), (torch.randn(1, 2, 5, 5),))
    assert [site.constant for site in graph.sites(WeightSite)] == [False, False]
    graph.set_weight(graph.sites(WeightSite)[0], graph.sites(WeightSite)[0].weight * 2)
    assert not graph.sites(WeightSite)[0].constant
    assert graph.unseen() == []
