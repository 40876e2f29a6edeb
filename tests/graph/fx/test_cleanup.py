"""What a clean graph does not hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.fx.graph import FxGraph
from tests.tolerance import assert_close


def _targets(graph: FxGraph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


def test_the_callers_tensors_are_never_written() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return functional.relu(x, inplace=True) + x

    x = torch.randn(2, 3)
    module, given = InPlace(), x.clone()
    graph = FxGraph.from_module(module, (x.clone(),))
    assert_close(graph.run((given,)).outputs[0], module(x.clone()))
    assert torch.equal(given, x)
    assert not [target for target in _targets(graph) if "copy_" in target]


def test_copies_dropout_and_assertions_go() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            torch._check(x.shape[0] > 0)
            return self.drop(x[:, :]).clone().float() + 1

    module, x = Copies().eval(), torch.randn(2, 3)
    graph = FxGraph.from_module(module, (x,))
    assert _targets(graph) == ["aten.add.Tensor"]
    assert_close(graph.run((x,)).outputs[0], module(x))


def test_a_copy_that_changes_the_layout_stays() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(0, 1).contiguous().view(-1)

    module, x = Flat(), torch.randn(2, 3)
    assert torch.equal(FxGraph.from_module(module, (x,)).run((x,)).outputs[0], module(x))


def test_regions_without_gradient_are_taken_in() -> None:
    class NoGrad(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = x.cos()
            return x * y

    graph = FxGraph.from_module(NoGrad(), (torch.randn(2, 3),))
    assert _targets(graph) == ["aten.cos.default", "aten.mul.Tensor"]


def test_what_adds_nothing_to_a_row_goes() -> None:
    class Grown(nn.Module):
        def forward(self, past: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cat([torch.tensor([]), past, x], 1), torch.cat([past[:, :0], x], 1)

    inputs = torch.randn(2, 3, 4), torch.randn(2, 1, 4)
    graph = FxGraph.from_exported(torch.export.export(Grown(), inputs))
    [joined] = graph.module.graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default)
    assert len(joined.args[0]) == 2
    for found, expected in zip(graph.run(inputs).outputs, Grown()(*inputs), strict=True):
        assert_close(found, expected)
