from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sparsecc.graph.onnx import OnnxGraph


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_least_by_minus_one(dtype: type) -> None:
    """onnxruntime itself would end the process."""
    kind, least = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), np.iinfo(dtype).min
    inputs = [helper.make_tensor_value_info(name, kind, [4]) for name in "ab"]
    nodes = [helper.make_node("Div", ["a", "b"], ["y"]), helper.make_node("Div", ["y", "two"], ["z"])]
    outputs = [helper.make_tensor_value_info(name, kind, [4]) for name in "yz"]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.array(2, dtype), "two")])
    found = OnnxGraph.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    before = onnx.helper.printable_graph(found.proto().graph)
    y, z = found.run([np.array([least, 7, -7, 9], dtype), np.array([-1, 2, 2, -1], dtype)]).outputs
    assert y.tolist() == [least, 3, -3, -9]
    assert z.tolist() == [least // 2, 1, -1, -4]
    assert onnx.helper.printable_graph(found.proto().graph) == before, "the model itself stays as it is"
