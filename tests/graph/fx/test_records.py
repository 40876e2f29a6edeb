from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsecc.graph.fx import records
from sparsecc.graph.fx.graph import FxGraph


@dataclass
class Half:
    value: Tensor


@dataclass
class Both:
    left: Half
    right: Tensor
    note: str | None = None


class Halves(nn.Module):
    def forward(self, both: Both) -> Both:
        return Both(Half(both.left.value * 2), both.right + 1)


def test_they_are_told_apart_to_the_last_tensor() -> None:
    records.register([Both(Half(torch.ones(2)), torch.zeros(3))])
    assert [leaf.shape for leaf in pytree.tree_leaves(Both(Half(torch.ones(2)), torch.zeros(3))) if leaf is not None] == [(2,), (3,)]


def test_a_model_takes_and_returns_them() -> None:
    graph = FxGraph.from_module(Halves(), (Both(Half(torch.ones(2, 3)), torch.zeros(3)),))
    assert len(graph.inputs) == 2
    assert torch.equal(graph.run([torch.ones(2, 3), torch.zeros(3)]).outputs[0], 2 * torch.ones(2, 3))
