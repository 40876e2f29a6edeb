"""A model as ONNX's back-end tests hold them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def light_model() -> onnx.ModelProto:
    """A convolution whose weight is a ConstantOfShape: IR 3, shapes listed as inputs."""
    shape = numpy_helper.from_array(np.array([8, 3, 1, 1]), "w_shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["w_shape"], ["w"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4]),
        helper.make_tensor_value_info("w_shape", TensorProto.INT64, [4]),
    ]
    graph = helper.make_graph(nodes, "light", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 4, 4])], [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)
