from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sparsecc.codegen.importers.onnx import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.whole import check_onnx


def build(nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model that returns what all its nodes give."""
    inputs = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for node in nodes for name in node.output if name]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(x, k) for k, x in weights.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def test_powers_in_the_type_of_the_base_and_indices_from_the_end() -> None:
    node = helper.make_node
    nodes = [
        node("Pow", ["i", "f"], ["power_if"]),
        node("Pow", ["f", "n"], ["power_fi"]),
        node("OneHot", ["places", "depth", "values"], ["hot"], axis=0),
    ]
    feeds = {
        "i": np.array([-3, 2, 0, 5], np.int32),
        "places": np.array([-3, 2, 0, 5]),
        "f": np.array([2, 3, 1, 2], np.float32),
        "n": np.array([2, 3, 1, 0], np.int32),
    }
    weights = {"depth": np.array(4), "values": np.array([-1, 7], np.float32)}
    check_onnx(build(nodes, feeds, weights), *feeds.values())


def test_values_that_are_no_constants() -> None:
    feeds = {"i": np.array([1]), "v": np.array([0, 1], np.float32)}
    proto = build([helper.make_node("OneHot", ["i", "depth", "v"], ["y"], name="hot")], feeds, {"depth": np.array(4)})
    with pytest.raises(ModelError, match=r"OneHot \(at 'hot'\): its values must be a constant of the model$"):
        import_onnx(proto)
