"""What a module and its example inputs have to be to be traced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.fx.opening import check_kinds


def test_weights_and_inputs_without_values_are_refused() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ModelError, match=r"^weight '0.weight' is on the meta device, .*; load the weights first$"):
        FxGraph.from_module(empty, (torch.randn(2, 4),))
    for x in (torch.empty(2, 4, device="meta"), torch.eye(4).to_sparse()):
        with pytest.raises(InputError, match=r"^an example input is a (meta|sparse_coo) tensor; pass one that holds all its values$"):
            FxGraph.from_module(nn.Linear(4, 4), (x,))


def test_a_module_whose_code_is_not_seen_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^module '0' is TorchScript, which cannot be traced; give the nn.Module"):
        check_kinds(nn.Sequential(torch.jit.script(nn.ReLU())))
