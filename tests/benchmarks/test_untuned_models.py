from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.untuned_models import draw_weights, random_inputs
from sparsecc.errors import UserError


def light_model() -> onnx.ModelProto:
    """A convolution whose weight is a ConstantOfShape, as in the light test models: IR 3, shapes listed as inputs."""
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


def test_constants_become_drawn_initializers() -> None:
    model = draw_weights(light_model())
    onnx.checker.check_model(model)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert weights["w"].shape == (8, 3, 1, 1)
    assert weights["w"].std() > 0.3
    assert [n.op_type for n in model.graph.node] == ["Conv", "Softmax"]
    assert [v.name for v in model.graph.input] == ["x"]
    assert [v.name for v in model.graph.output] == ["y", "c"]


def test_drawing_is_the_same_every_time() -> None:
    assert draw_weights(light_model()).SerializeToString() == draw_weights(light_model()).SerializeToString()


def test_inputs_take_the_shapes_given() -> None:
    inputs = random_inputs(draw_weights(light_model()), {"x": (2, 3, 4, 4)})
    assert {name: value.shape for name, value in inputs.items()} == {"x": (2, 3, 4, 4)}
    assert inputs["x"].dtype == np.float32


def test_an_open_shape_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(UserError, match=r"x: shape \(0, 3, 4, 4\) is open; give --input-shape x:"):
        random_inputs(draw_weights(light_model()), {})
