from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.whole import check_onnx
from tests.graph.onnx_models import random


def build(nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model that returns what all its nodes give."""
    inputs = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for node in nodes for name in node.output if name]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(x, k) for k, x in weights.items()])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets[: 1 + any(node.domain for node in nodes)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def test_what_tvm_takes_for_some_types_only_or_not_at_all() -> None:
    """Powers in the type of the base, indices from the end, sequences turned round in part."""
    node = helper.make_node
    nodes = [
        node("Celu", ["x"], ["celu"], alpha=0.7),
        node("LpNormalization", ["x"], ["normal"], axis=1),
        node("LpNormalization", ["x"], ["normal_1"], axis=0, p=1),
        node("Pow", ["i", "f"], ["power_if"]),
        node("Pow", ["large", "f"], ["power_above_float32"]),
        node("Clip", ["f", "high", "low"], ["crossed"]),
        node("Pow", ["f", "n"], ["power_fi"]),
        node("ReverseSequence", ["x", "lengths"], ["turned"]),
        node("ReverseSequence", ["x", "batch_lengths"], ["turned_later"], time_axis=1, batch_axis=0),
        node("OneHot", ["places", "depth", "counts"], ["hot_integers"]),
        node("OneHot", ["places", "depth", "values"], ["hot"], axis=0),
    ]
    feeds = {
        "i": np.array([-3, 2, 0, 5], np.int32),
        "large": np.array([301, 1001, -16777217, 5]),
        "places": np.array([-3, 2, 0, 5]),
        "f": np.array([2, 3, 1, 2], np.float32),
        "n": np.array([2, 3, 1, 0], np.int32),
        "x": random(5, 3, 2),
        "lengths": np.array([1, 5, 3]),
        "batch_lengths": np.array([1, 2, 3, 3, 1]),
    }
    weights = {"low": np.array(1.5, np.float32), "high": np.array(2.5, np.float32)}
    weights |= {"depth": np.array(4), "values": np.array([-1, 7], np.float32), "counts": np.array([0, 1])}
    check_onnx(build(nodes, feeds, weights), *feeds.values())


def test_values_that_are_no_constants() -> None:
    feeds = {"i": np.array([1]), "v": np.array([0, 1], np.float32)}
    proto = build([helper.make_node("OneHot", ["i", "depth", "v"], ["y"], name="hot")], feeds, {"depth": np.array(4)})
    with pytest.raises(ModelError, match=r"OneHot \(at 'hot'\): its values must be a constant of the model$"):
        import_onnx(proto)
