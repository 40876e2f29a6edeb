"""Models that write their own buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.errors import ModelError
from sparsecc.graph.fx import state
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.passes.reorder_tokens import ReorderTokens


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


class Attending(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x)


def refreshed(x: Tensor) -> FxGraph:
    graph = FxGraph.from_exported(torch.export.export(Attending(), (x,)))
    return ReorderTokens(pattern="block_topk:refresh=3", density=0.5, block=4).apply(graph).graph  # type: ignore[return-value]


def test_a_run_is_of_a_call_that_chooses_and_leaves_the_counter_as_it_was() -> None:
    x = 3 * torch.randn(1, 2, 32, 8, generator=torch.Generator().manual_seed(0))
    graph = refreshed(x)
    module = nn.Sequential(graph.module)
    [counter] = state.counters(module)
    assert {"attention.calls": counter} == state.written(graph.module)
    first = [graph.run((x,)).outputs[0] for _ in range(2)]
    assert torch.equal(*first) and counter.item() == 0
    dense, chosen = graph.module(x), graph.module(x)
    assert torch.equal(chosen, first[0]) and not torch.allclose(dense, chosen, atol=1e-3) and counter.item() == 2
    with state.restored(module):
        assert torch.equal(module(x), chosen)
    assert counter.item() == 2
    other = graph.copy()
    assert torch.equal(other.module(x), chosen) and counter.item() == 2  # a copy counts for itself
    assert [int(its) for its in state.counters(other.module)] == [3]


def test_counters_of_the_model_itself_are_none_of_ours() -> None:
    class Steps(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            y = x * self.calls
            self.calls.add_(1)
            return y

    graph = graph_of(Steps(), torch.ones(2))
    assert list(state.written(graph.module)) == ["calls"] and not state.counters(graph.module)
    assert graph.run((torch.ones(2),)).outputs[0].tolist() == [0, 0]


def test_elsewhere_such_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match="changes its own buffer 'seen' when it runs; only target cuda takes models with such state"):
        FxGraph.from_module(Counting(), (torch.randn(3, 4),))
