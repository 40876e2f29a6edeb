"""Simplification: same results, names kept, old opsets converted, functions inlined, inputs never lost, failure survived."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxslim
import pytest
import torch
from onnx import TensorProto, helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Conv2d, Linear, WeightSite
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random


def close(ours: torch.Tensor, oracle: np.ndarray) -> bool:
    return np.allclose(ours.numpy(), oracle, atol=1e-5 * max(1.0, float(np.abs(oracle).max())))


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, 21, 24])
def test_every_opset_computes_the_same(opset: int) -> None:
    proto = models.mlp(opset)
    graph = OnnxGraph.from_proto(proto)
    assert graph.model.graph.opset_imports[""] == max(opset, 18)
    x = random(5, 32)
    assert close(graph.run([x]).outputs[0], models.run(proto, x=x)[0])
    assert [site.name for site in graph.sites(Linear)] == ["fc1", "fc2", "head"]


def test_an_opset_that_cannot_be_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter for Thing")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    with pytest.raises(ModelError, match="opset 13 cannot be converted to 18: no adapter for Thing"):
        OnnxGraph.from_proto(models.mlp(13))
    assert OnnxGraph.from_proto(models.mlp(17)).model.graph.opset_imports[""] == 17  # the sparse operators can live with it


def test_an_invalid_model() -> None:
    proto = models.model([node("MatMul", "x nowhere", "y")], {"x": ["n", 32]}, {"y": ["n", 32]})
    with pytest.raises(ModelError, match=r"not a valid model: MatMul 'y' reads 'nowhere', which nothing computes"):
        OnnxGraph.from_proto(proto)


def test_shapes_that_a_file_declares_wrongly_are_not_folded_in() -> None:
    nodes = [node("Shape", "x", "s"), node("Concat", "one s", "t", axis=0), node("Reshape", "x t", "y")]
    proto = models.model(nodes, {"x": ["n", 3]}, {"y": [1, "n"]}, {"one": np.array([1], np.int64)})
    assert OnnxGraph.from_proto(proto).run([random(4, 3)]).outputs[0].shape == (1, 4, 3)


def test_outputs_keep_the_names_of_their_sizes() -> None:
    proto = models.model([node("Concat", "x x", "y", axis=0)], {"x": ["n", 3]}, {"y": ["twice", None]})
    assert OnnxGraph.from_proto(proto).outputs[0].shape == ("twice", 3)


def test_an_output_that_nothing_computes() -> None:
    proto = models.model([node("Relu", "x", "y")], {"x": ["n"]}, {"z": ["n"]})
    with pytest.raises(ModelError, match="nothing computes its output 'z'"):
        OnnxGraph.from_proto(proto)


def test_operators_out_of_order() -> None:
    proto = models.model([node("Relu", "h", "y"), node("Neg", "x", "h")], {"x": ["n"]}, {"y": ["n"]})
    assert close(OnnxGraph.from_proto(proto).run([random(4)]).outputs[0], np.maximum(-random(4), 0))


def test_unused_inputs_stay_and_keep_their_order() -> None:
    proto = models.model([node("Relu", "b", "y")], {"a": ["n"], "b": ["n"], "c": ["n", 3]}, {"y": ["n"]})
    graph = OnnxGraph.from_proto(proto)
    assert [spec.name for spec in graph.inputs] == ["a", "b", "c"]
    assert graph.inputs[2].shape == ("n", 3)
    assert close(graph.run([random(4), random(4), random(4, 3)]).outputs[0], np.maximum(random(4), 0))


def test_an_input_or_a_constant_that_is_returned_as_it_is() -> None:
    nodes = [node("Identity", "x", "y"), node("Add", "a b", "c")]
    proto = models.model(nodes, {"x": ["n"]}, {"y": ["n"], "c": [2]}, {"a": random(2), "b": random(2, seed=1)})
    outputs = OnnxGraph.from_proto(proto).run([random(4)]).outputs
    assert close(outputs[0], random(4))
    assert close(outputs[1], random(2) + random(2, seed=1))


def test_initializers_that_are_also_inputs_are_constants() -> None:
    proto = models.mlp()
    proto.graph.input.append(helper.make_tensor_value_info("fc1.weight", TensorProto.FLOAT, [32, 64]))
    graph = OnnxGraph.from_proto(proto)
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert len(graph.sites(Linear)) == 3


def test_local_functions_are_inlined() -> None:
    body = [node("MatMul", "a b", "p"), node("Relu", "p", "c")]
    function = helper.make_function("local", "Layer", ["a", "b"], ["c"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("Layer", ["x", "w"], ["y"], domain="local", name="call")
    proto = models.model([call], {"x": ["n", 32]}, {"y": ["n", 16]}, {"w": random(32, 16)})
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    graph = OnnxGraph.from_proto(proto)
    (site,) = graph.sites(Linear)
    assert site.activation == "relu"
    assert not graph.model.functions
    assert close(graph.run([random(2, 32)]).outputs[0], np.maximum(random(2, 32) @ random(32, 16), 0))


def test_batch_norms_and_scales_after_a_convolution_are_folded() -> None:
    nodes = [
        node("Conv", "x conv.weight", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c scale shift mean var", "n"),
        node("Mul", "n two", "m"),
        node("Add", "m three", "y"),
    ]
    weights = {"conv.weight": random(8, 4, 3, 3), "scale": random(8), "shift": random(8, seed=1), "mean": random(8, seed=2)}
    weights |= {"var": np.abs(random(8, seed=3)) + 0.5, "two": np.array([2], np.float32), "three": random(8, 1, 1)}
    proto = models.model(nodes, {"x": ["n", 4, 8, 8]}, {"y": ["n", 8, 8, 8]}, weights)
    graph = OnnxGraph.from_proto(proto)
    assert [op.op_type for op in graph.model.graph] == ["Conv"]
    assert [site.name for site in graph.sites(Conv2d)] == ["conv"]
    x = random(2, 4, 8, 8)
    assert close(graph.run([x]).outputs[0], models.run(proto, x=x)[0])


def test_large_weights_are_not_copied_by_the_tools() -> None:
    proto = models.mlp()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.pad(random(32, 64), ((0, 0), (0, 0))), "fc1.weight"))
    graph = OnnxGraph.from_proto(proto)
    fixed, copy = graph.fixed({"x": (3, 32)}), graph.copy()
    address = graph.sites(Linear)[0].weight.data_ptr()
    assert fixed.sites(Linear)[0].weight.data_ptr() == address
    assert copy.sites(Linear)[0].weight.data_ptr() == address


def test_shape_arithmetic_is_folded_when_shapes_are_fixed() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one", "rows"),
        node("Concat", "rows minus", "target", axis=0),
        node("Reshape", "x target", "flat"),
        node("MatMul", "flat w", "y"),
    ]
    weights = {"zero": np.array([0], np.int64), "one": np.array([1], np.int64), "minus": np.array([-1], np.int64), "w": random(12, 16)}
    proto = models.model(nodes, {"x": ["n", 3, 4]}, {"y": ["n", 16]}, weights)
    graph = OnnxGraph.from_proto(proto, {"x": (5, 3, 4)})
    assert [op.op_type for op in graph.model.graph] == ["Reshape", "MatMul"]
    x = random(5, 3, 4)
    assert close(graph.run([x]).outputs[0], models.run(proto, x=x)[0])


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_softmax_of_old_opsets(axis: int) -> None:
    proto = models.model([node("Softmax", "x", "y", axis=axis)], {"x": ["n", 3, 4]}, {"y": ["n", 3, 4]}, opset=11)
    graph = OnnxGraph.from_proto(proto)
    if axis != 1:
        assert [op.op_type for op in graph.model.graph] == ["Softmax"]
    x = random(2, 3, 4)
    assert close(graph.run([x]).outputs[0], models.run(proto, x=x)[0])


def test_when_onnxslim_fails_the_model_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("onnxslim's own mistake")

    monkeypatch.setattr(onnxslim, "slim", fail)
    with caplog.at_level(logging.INFO):
        graph = OnnxGraph.from_proto(models.cnn()[0])
    assert "left unsimplified, onnxslim failed: KeyError" in caplog.text
    assert [site.name for site in graph.sites(WeightSite)] == ["stem", "depthwise", "wide", "pointwise", "head"]


def test_a_slimmed_model_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    other = models.model([node("Relu", "x", "z")], {"x": ["n", 32]}, {"z": ["n", 32]})
    monkeypatch.setattr(onnxslim, "slim", lambda *arguments, **options: other)
    with caplog.at_level(logging.INFO):
        graph = OnnxGraph.from_proto(models.mlp())
    assert "it changed the outputs" in caplog.text
    assert len(graph.sites(Linear)) == 3


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    OnnxGraph.from_proto(models.bert()[0])
    assert capfd.readouterr() == ("", "")
