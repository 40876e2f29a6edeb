"""Both hosts find the table that an input of tokens is looked up in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph


class Text(nn.Module):
    """The second input is looked up twice, the first one is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.other, self.layer = nn.Embedding(50, 6), nn.Embedding(50, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.layer(x + self.words(ids) + self.other(ids) + self.words(ids + 1))


class Narrow(nn.Module):
    """Reads its table at 32-bit integers, in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(50, 6), nn.Linear(6, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.words(ids.long().view(-1, ids.shape[-1])))


def test_a_table_that_is_read_at_the_same_values(tmp_path: Path) -> None:
    module, inputs = Narrow().eval(), (torch.randint(0, 49, (2, 5), dtype=torch.int32),)
    torch.onnx.export(module, inputs, tmp_path / "text.onnx", dynamo=True)
    hosts: tuple[Graph, ...] = (FxGraph.from_module(module, inputs), OnnxGraph.from_file(tmp_path / "text.onnx"))
    for graph in hosts:
        assert torch.equal(graph.embeddings()[0], module.words.weight)


def test_the_first_table_that_reads_an_input(tmp_path: Path) -> None:
    module, inputs = Text().eval(), (torch.randn(2, 5, 6), torch.randint(0, 49, (2, 5)))
    torch.onnx.export(module, inputs, tmp_path / "text.onnx", dynamo=True)
    hosts: tuple[Graph, ...] = (FxGraph.from_module(module, inputs), OnnxGraph.from_file(tmp_path / "text.onnx"))
    for graph in hosts:
        found = graph.embeddings()
        assert list(found) == [1]
        assert torch.equal(found[1], module.words.weight)
