"""Tracing: how free the shapes stay, and what cannot be traced."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.fx import limit
from sparsecc.graph.fx import trace as fx_trace
from sparsecc.graph.fx.graph import FxGraph
from tests.tolerance import assert_close


class Doubling(nn.Module):
    """Takes another way for long inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[1] > 8 else x


class Single(nn.Module):
    """Does something else for a batch of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x[0] if x.shape[0] == 1 else x


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


def test_a_batch_of_one_is_free_all_the_same() -> None:
    graph = FxGraph.from_module(nn.Linear(4, 2), (torch.randn(1, 3, 4),))
    assert graph.inputs[0].shape == ("input_0", "input_1", 4)
    assert graph.run((torch.randn(5, 2, 4),)).outputs[0].shape == (5, 2, 2)


def test_a_trace_that_computes_something_else_is_not_taken() -> None:
    module, x = Single(), torch.randn(1, 3, 4)
    graph = FxGraph.from_module(module, (x,))
    assert graph.inputs[0].shape[0] == 1
    assert_close(graph.run((x,)).outputs[0], module(x))


def test_conditions_on_shapes_are_checked_on_every_run() -> None:
    graph = FxGraph.from_module(Doubling(), (torch.randn(2, 5),))
    assert graph.run((torch.randn(2, 8),)).outputs[0].shape == (2, 8)
    with pytest.raises(InputError, match=r"traced under the condition .*<= 8; trace it again"):
        graph.run((torch.randn(2, 9),))
    with pytest.raises(InputError, match="<= 8"):
        graph.copy().specialize((torch.randn(2, 9),))


def test_an_exported_program_keeps_its_shapes() -> None:
    module, x = nn.Linear(4, 2), torch.randn(3, 4)
    fixed = FxGraph.from_exported(torch.export.export(module, (x,)))
    assert fixed.inputs[0].shape == (3, 4)
    with pytest.raises(InputError, match="'input' has 2 at axis 0"):
        fixed.run((torch.randn(2, 4),))
    assert FxGraph.from_module(torch.export.export(module, (x,)).module(), (x,)).run((x,)).outputs[0].shape == (3, 2)


def test_what_cannot_be_traced_is_said_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"torch.export cannot trace the model: Could not guard on data-dependent") as caught:
        FxGraph.from_module(DataDependent(), (torch.ones(3),))
    assert "\n" not in str(caught.value)


def test_other_mistakes() -> None:
    with pytest.raises(ModelError, match=r"a dict is no torch.nn.Module"):
        FxGraph.from_module({}, (torch.ones(3),))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"fails on the example inputs: .*shapes cannot be multiplied"):
        FxGraph.from_module(nn.Linear(4, 2), (torch.ones(1, 3),))
    with pytest.raises(ModelError, match="changes its own buffer 'calls'"):
        FxGraph.from_module(Stateful(), (torch.ones(3),))


def test_torch_is_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ModelError):
        FxGraph.from_module(DataDependent(), (torch.ones(3),))
    FxGraph.from_module(nn.Linear(4, 2), (torch.ones(1, 4),)).copy()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_threads_take_turns() -> None:
    before = sys.stderr, logging.getLogger("torch").level, list(warnings.filters)
    inside, most = [], []

    def trace() -> None:
        for _ in range(20):
            with fx_trace.quiet():
                inside.append(None)
                time.sleep(0)  # lets another thread go on
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=trace) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 60
    assert (sys.stderr, logging.getLogger("torch").level, list(warnings.filters)) == before


class Square(nn.Module):
    """The side of an image from the number of its pixels, which no trace with free sizes can hold."""

    def forward(self, x: Tensor) -> Tensor:
        side = int(x.shape[1] ** 0.5)
        return x.reshape(-1, side, side, 4)[:, ::2]


def test_a_trace_that_refuses_the_example_is_not_taken() -> None:
    x = torch.randn(1, 16, 4)
    assert_close(FxGraph.from_module(Square(), (x,)).run((x,)).outputs[0], Square()(x))


def test_a_slow_trace_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, waited = fx_trace.export_free, []

    def slow_at_first(module: nn.Module, inputs: fx_trace.Inputs, free: list[list[int]]) -> ExportedProgram:
        waited.append(free)
        while len(waited) == 1:
            sum(range(100))
        return quick(module, inputs, free)

    monkeypatch.setattr(fx_trace, "export_free", slow_at_first)
    monkeypatch.setattr(fx_trace, "time_limit", lambda seconds: limit.time_limit(seconds if waited else 0.1))
    graph = FxGraph.from_module(nn.Linear(4, 2), (torch.randn(1, 3, 4),))
    assert waited == [[[0, 1, 2]], [[0]]]
    assert graph.inputs[0].shape == ("input_0", 3, 4)
    assert graph.copy().notes == ("tracing with all sizes free took longer than 12 s, so that fewer are",)
