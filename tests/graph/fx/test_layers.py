"""Which nodes are layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsecc.graph.fx.layers import Layer, match

aten = torch.ops.aten
SQUARE, BATCHED, VECTOR = torch.randn(4, 4), torch.randn(2, 4, 4), torch.randn(4)


def _layers(function: Callable[[Tensor, nn.Module], Tensor]) -> list[Layer]:
    """The layers of a graph made of exactly the operators that `function` calls on x: [3, 4]."""
    module = nn.Module()
    for name, tensor in (("square", SQUARE), ("batched", BATCHED), ("vector", VECTOR)):
        module.register_buffer(name, tensor)
    module.forward = lambda x: function(x, module)  # type: ignore[method-assign]
    program = torch.export.export(module, (torch.randn(3, 4),), strict=False)
    nodes = program.module(check_guards=False).graph.nodes
    return [layer for layer in map(match, nodes) if isinstance(layer, Layer)]


@pytest.mark.parametrize(
    ("function", "transposed", "has_bias"),
    [
        (lambda x, m: aten.linear(x, m.square), False, False),
        (lambda x, m: aten.linear(x, m.square, m.vector), False, True),
        (lambda x, m: aten.linear(x, m.square.t()), True, False),
        (lambda x, m: aten.mm(x, m.square), True, False),
        (lambda x, m: aten.matmul(x, m.square.transpose(-1, 0)), False, False),
        (lambda x, m: aten.matmul(x, m.square.permute(1, 0)), False, False),
        (lambda x, m: aten.addmm(m.vector, x, m.square), True, True),
    ],
)
def test_spellings_of_a_linear_layer(function: Callable[[Tensor, nn.Module], Tensor], transposed: bool, has_bias: bool) -> None:
    (layer,) = _layers(function)
    assert (layer.weight.target, layer.transposed, layer.bias is not None) == ("square", transposed, has_bias)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: aten.linear(x, m.square * 2),
        lambda x, m: aten.matmul(x, m.batched),
        lambda x, m: aten.matmul(m.square, x.t()),
        lambda x, m: aten.addmm(m.vector, x, m.square, beta=2),
        lambda x, m: aten.addmm(m.square[:3], x, m.square),
        lambda x, m: aten.linear(x, m.square, x[0]),
        lambda x, m: aten.mm(x, m.square.permute(1, 0).clone()),
    ],
)
def test_what_is_no_layer(function: Callable[[Tensor, nn.Module], Tensor]) -> None:
    assert _layers(function) == []


def test_convolutions() -> None:
    class Convs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.line = nn.Conv2d(1, 2, 3, padding=(1, 2), stride=2), nn.Conv1d(1, 2, 3)
            self.up = nn.ConvTranspose2d(2, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.plain(x)).sum() + self.line(x[:, :, 0]).sum()

    nodes = torch.export.export(Convs(), (torch.randn(1, 1, 8, 8),)).module(check_guards=False).graph.nodes
    layer, line = [layer for layer in map(match, nodes) if isinstance(layer, Layer)]
    assert layer.geometry is not None
    assert line.geometry is not None
    assert (line.weight.target, line.geometry.padding, line.geometry.stride) == ("line.weight", (0, 0, 0, 0), (1, 1))
    assert (layer.weight.target, layer.geometry.padding, layer.geometry.stride) == ("plain.weight", (1, 2, 1, 2), (2, 2))
