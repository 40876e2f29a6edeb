"""A torch graph as JSON, and back."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import ArtifactError, UserError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.runtime.program import from_data, to_data

CPU = torch.device("cpu")


class Mixed(nn.Module):
    """Sizes, dtypes, infinities, a keyword, and outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Any]:
        y = self.layer(x).masked_fill(x[..., :4] > 9, float("-inf"))
        half = y.to(torch.float16).reshape(x.shape[0] * x.shape[1] // 2, 2, -1)
        return OrderedDict(whole=(y.softmax(-1) * scale, half), ones=torch.ones(x.shape[1], dtype=torch.int32))


def test_what_is_read_computes_the_same() -> None:
    inputs = {"x": torch.randn(4, 6, 6), "scale": torch.tensor(2.0)}
    graph = FxGraph.from_module(Mixed(), inputs)
    data, tensors = to_data(graph.module)
    again = from_data(json.loads(json.dumps(data)), tensors, CPU)
    with torch.no_grad():
        expected, found = graph.module(**inputs), again(**inputs)
    assert list(found) == ["whole", "ones"]
    for theirs, ours in zip((*expected["whole"], expected["ones"]), (*found["whole"], found["ones"]), strict=True):
        assert torch.equal(theirs, ours)
    assert to_data(again)[0] == data


def test_an_operator_that_is_not_there() -> None:
    graph = FxGraph.from_module(nn.ReLU(), (torch.randn(2),))
    data, tensors = to_data(graph.module)
    for node in data["nodes"]:
        node["target"] = node.get("target", "").replace("relu", "no_such")
    with pytest.raises(ArtifactError, match=r"the model calls 'aten.no_such.default', which torch .* has not"):
        from_data(data, tensors, CPU)


def test_what_is_no_operator_of_torch_is_not_called() -> None:
    graph = FxGraph.from_module(nn.ReLU(), (torch.randn(2),))
    data, tensors = to_data(graph.module)
    for node in data["nodes"]:
        if node["op"] == "call":
            node["target"] = "load_library"
    with pytest.raises(ArtifactError, match="the model calls 'load_library'"):
        from_data(data, tensors, CPU)


def test_a_function_that_cannot_be_written() -> None:
    module = torch.fx.symbolic_trace(nn.ReLU())
    module.graph.set_codegen(FxGraph.from_module(nn.ReLU(), (torch.randn(2),)).module.graph._codegen)
    with pytest.raises(UserError, match="which cannot be written into a file"):
        to_data(module)
