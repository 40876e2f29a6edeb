"""Activations, however they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.activations import KNOWN
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear

SPELLINGS: dict[str, tuple[str | None, Callable[[Tensor], Tensor]]] = {
    **{name: (name, function) for name, function in KNOWN.items()},
    "gelu by erf": ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
    "gelu by tanh": ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))),
    "silu by sigmoid": ("silu", lambda x: x * torch.sigmoid(x)),
    "relu by clamp": ("relu", lambda x: x.clamp(min=0)),
    "after a reshape": ("relu", lambda x: functional.relu(x.reshape(-1))),
    "none": (None, lambda x: x * 3),
    "leaky": (None, functional.leaky_relu),
    "one of two readers": (None, lambda x: functional.relu(x) + torch.softmax(x, -1)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_follows_a_layer(spelling: str) -> None:
    expected, function = SPELLINGS[spelling]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.fc(x))

    (site,) = FxGraph.from_exported(torch.export.export(Net(), (torch.randn(2, 4),))).sites(Linear)
    assert site.activation == expected
