"""Models that write their own buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import ModelError
from sparsecc.graph.fx import state
from sparsecc.graph.fx.graph import FxGraph


class Counting(nn.Module):
    """Adds what it has seen so far."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        before = self.seen.clone()
        self.seen.add_(self.layer(x).sum(0))
        return before + self.seen


def graph_of(module: nn.Module, x: Tensor) -> FxGraph:
    return FxGraph.from_module(module, (x,), stateful=True)


def test_a_trace_leaves_the_buffers_as_they_were_and_says_which_are_written() -> None:
    module, x = Counting(), torch.randn(3, 4)
    graph = graph_of(module, x)
    assert list(state.written(graph.module)) == ["seen"]
    assert torch.equal(module.seen, torch.zeros(4))


def test_a_run_takes_back_what_it_writes() -> None:
    module, x = Counting(), torch.randn(3, 4)
    graph = graph_of(module, x)
    first, second = (graph.run((x,)).outputs[0] for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        assert torch.allclose(first, module(x))


def test_what_is_written_is_no_constant() -> None:
    """A copy made before is what it was then; a view of the buffer is not computed once and for all."""
    module, x = Counting(), torch.randn(3, 4)
    graph = graph_of(module, x)
    module.seen.fill_(2.0)
    with torch.no_grad():
        expected = 4.0 + module.layer(x).sum(0)
    assert torch.allclose(graph.run((x,)).outputs[0], expected)


def test_elsewhere_such_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match="changes its own buffer 'seen' when it runs; only target cuda takes models with such state"):
        FxGraph.from_module(Counting(), (torch.randn(3, 4),))
