from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import light_models
from benchmarks.light_models import draw_weights, drawn
from tests.benchmarks.light import light_model


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


def test_a_file_is_made_from_the_installed_one(tmp_path, monkeypatch) -> None:
    onnx.save(light_model(), tmp_path / "installed.onnx")
    monkeypatch.setattr(light_models, "carried", lambda package, file, install: tmp_path / "installed.onnx")
    path = drawn("squeezenet", tmp_path)
    assert path == tmp_path / "squeezenet.onnx"
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "ConstantOfShape"]


def test_normalization_is_drawn_near_one() -> None:
    names = ["scale", "shift", "mean", "var"]
    nodes = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]) for name in names]
    nodes.append(helper.make_node("BatchNormalization", ["x", *names], ["y"]))
    shapes = [helper.make_tensor(f"{name}_shape", TensorProto.INT64, [1], [64]) for name in names]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 2, 2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 2, 2])
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [result], shapes), opset_imports=[helper.make_opsetid("", 15)])
    weights = {t.name: numpy_helper.to_array(t) for t in draw_weights(model).graph.initializer}
    assert abs(weights["scale"].mean() - 1) < 0.1
    assert weights["var"].min() > 0.3
    assert abs(weights["mean"].mean()) < 0.1
