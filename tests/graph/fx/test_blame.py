"""Where a trace gave up, without a trace: a module that fails when it runs."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import ModelError
from sparsecc.graph.fx import blame, trace


def _decide(x: Tensor) -> bool:
    return bool(x.sum() > 0)


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if _decide(x) else -x


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(7)


def _place(module: nn.Module) -> str:
    try:
        module(torch.ones(3))
    except RuntimeError as error:
        return blame.place_of(module, error)
    raise AssertionError("it should fail")


def test_the_innermost_module_and_its_line() -> None:
    assert re.fullmatch(r"0\.1, test_blame\.py:\d+: return x\.reshape\(7\)", _place(nn.Sequential(nn.Sequential(nn.ReLU(), Failing()))))


def test_the_model_itself_has_no_path_and_torchs_own_layers_no_line() -> None:
    assert re.fullmatch(r"test_blame\.py:\d+: return x\.reshape\(7\)", _place(Failing()))
    assert _place(nn.Sequential(nn.Linear(2, 2))) == "0"


def test_errors_of_no_module_have_no_place() -> None:
    assert blame.place_of(nn.ReLU(), ValueError("never raised")) == ""


def test_a_model_that_data_decide_is_refused_with_the_place() -> None:
    said = r"^torch\.export cannot trace the model: [^\n]* \(at 1, test_blame\.py:\d+: return bool\(x\.sum\(\) > 0\)\)$"
    with pytest.raises(ModelError, match=said):
        trace.export_fixed(nn.Sequential(nn.ReLU(), Choosing()), ((torch.ones(3),), {}))
