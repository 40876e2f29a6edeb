"""Which layer of a program is which site, also where the importer has left nothing of the name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsecc.api.sources import open_graph
from sparsecc.codegen import compiler
from sparsecc.codegen.recognize.names import name_layers
from sparsecc.codegen.recognize.program import Layer
from sparsecc.graph.base import Graph
from sparsecc.passes.quantize import Quantize


def named(graph: Graph, *inputs: Tensor) -> list[str | None]:
    program = compiler._program(compiler._imported(graph, [x.numpy() for x in inputs]))
    name_layers(program, graph)
    return [node.what.name for node in program.nodes if isinstance(node.what, Layer)]


class Tied(nn.Module):
    """Two layers with one weight, between layers of the same size with others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.twin, self.last = (nn.Linear(32, 32) for _ in range(4))
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twin(self.again(self.first(x).relu()).relu()).relu())


class Normed(nn.Module):
    """Norms are folded into convolutions, which then have weights that the graph does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        norms = [nn.BatchNorm2d(size) for size in (8, 8, 16)]
        for norm in norms:
            assert norm.running_var is not None
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip((self.one, self.two, self.three), self.norms, strict=True):
            x = norm(convolution(x)).relu()
        return x


def graph_of(module: nn.Module, x: Tensor) -> Graph:
    return open_graph(module.eval(), (x,), standard=True)


def test_layers_with_one_weight_are_named_in_the_order_of_the_model() -> None:
    x = torch.randn(16, 32)
    assert named(graph_of(Tied(), x), x) == ["first", "again", "twin", "last"]


def test_weights_into_which_norms_are_folded() -> None:
    x = torch.randn(1, 8, 12, 12)
    assert named(graph_of(Normed(), x), x) == ["one", "two", "three"]


def test_a_weight_that_is_not_dense_has_its_own_name() -> None:
    x = torch.randn(16, 32)
    graph = Quantize(targets=("twin",)).apply(graph_of(Tied(), x)).graph
    assert named(graph, x) == ["first", "again", "twin", "last"]
