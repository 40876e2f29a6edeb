from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.onnx.walk import Walk


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


def divided_in_a_branch() -> onnx.ModelProto:
    """The types of what is inside are not declared."""
    inside = helper.make_graph([helper.make_node("Div", ["a", "b"], ["q"])], "then", [], [helper.make_empty_tensor_value_info("q")])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["n"])], "else", [], [helper.make_empty_tensor_value_info("n")])
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [2]) for name in "ab"]
    inputs.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=inside, else_branch=other),
        helper.make_node("Div", ["i", "b"], ["j"]),
        helper.make_node("Cast", ["j"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="layer"),
    ]
    weights = [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


LEAST = np.iinfo(np.int64).min
FEEDS = {"a": np.array([LEAST, 8]), "b": np.array([-1, 2]), "c": np.array(True)}


def test_in_bodies() -> None:
    found = OnnxGraph.from_proto(divided_in_a_branch())
    [y] = found.run(FEEDS).outputs
    assert y.tolist() == [float(LEAST) + 2] * 3


def test_piece_by_piece() -> None:
    """As calibration runs a model."""
    found = OnnxGraph.from_proto(divided_in_a_branch())
    layer = next(node for node in found.model.graph if node.op_type == "MatMul")
    entering = layer.inputs[0]
    assert entering is not None
    [[f]] = Walk(found.model, [FEEDS], "here").reach([entering])
    assert f.tolist() == [LEAST, 2]
