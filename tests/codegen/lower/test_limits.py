from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sparsecc.codegen.importers.fx import import_fx
from sparsecc.codegen.importers.onnx import import_onnx
from sparsecc.codegen.lower.limits import limits_of
from sparsecc.codegen.lower.program import Program
from sparsecc.graph.fx import FxGraph


class Tables(nn.Module):
    """Two tables read by one input, one by a sum of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small, self.third = nn.Embedding(10, 4), nn.Embedding(7, 4), nn.Embedding(5, 4)

    def forward(self, ids: torch.Tensor, others: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.large(ids) + self.small(ids) + self.third(ids * 0 + others) + x


def test_the_smallest_table_limits_what_indexes_it() -> None:
    inputs = (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4))
    graph = FxGraph.from_module(Tables(), inputs)
    assert limits_of(Program.of(import_fx(graph.specialize(inputs)))) == [7, None, None]


def test_gather() -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "x"], ["y"], axis=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])],
        [numpy_helper.from_array(np.ones((4, 10), np.float32), "w")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert limits_of(Program.of(import_onnx(model))) == [10]
