"""Strings, sequences and maps stay in a file; where tensors of numbers are wanted, these are what is left, or it is said why nothing is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.onnx import values
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random


def returning(*nodes: onnx.NodeProto, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """x -> fc -> y, and what these nodes make of y."""
    proto = models.model([node("MatMul", "x w", "y"), *nodes], {"x": [2, 32]}, {}, {"w": random(32, 3)}, opset=17)
    proto.graph.output.extend(outputs)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return proto


def pieces() -> onnx.ModelProto:
    split = node("SplitToSequence", "y", "pieces", axis=0)
    return returning(split, outputs=[helper.make_tensor_sequence_value_info("pieces", TensorProto.FLOAT, None)])


def classes() -> onnx.ModelProto:
    """As converters of classifiers write it: a label, and a map from each class to its score."""
    names = ["a", "b", "c"]
    encoder = helper.make_node("LabelEncoder", ["best"], ["label"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=names)
    zipped = helper.make_node("ZipMap", ["y"], ["scores"], domain="ai.onnx.ml", classlabels_strings=names)
    best = node("ArgMax", "y", "best", axis=1, keepdims=0)
    scores = onnx.ValueInfoProto(name="scores")
    scores.type.sequence_type.elem_type.map_type.key_type = TensorProto.STRING
    scores.type.sequence_type.elem_type.map_type.value_type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return returning(best, encoder, zipped, outputs=[helper.make_tensor_value_info("label", TensorProto.STRING, [2]), scores])


def test_a_sequence_is_given_as_it_is() -> None:
    graph, x = OnnxGraph.from_proto(pieces()), random(2, 32)
    (sequence,) = graph.run([x]).outputs
    assert [np.asarray(piece).shape for piece in sequence] == [(1, 3), (1, 3)]
    assert models.run(graph.proto(), x=x)[0][1].tolist() == sequence[1].tolist()


def test_strings_and_maps_stay_in_a_file() -> None:
    graph, x = OnnxGraph.from_proto(classes()), random(2, 32)
    made = graph.proto()
    onnx.checker.check_model(made)
    assert made.graph.output[1].type == classes().graph.output[1].type
    (label, scores), (expected, other) = models.run(made, x=x), models.run(classes(), x=x)
    assert list(label) == list(expected)
    assert scores == other
    assert [a.tolist() for a in values.flat([scores])] == [a.tolist() for a in values.flat([other])]


def test_numbers_alone() -> None:
    graph = OnnxGraph.from_proto(classes(), numbers=True)
    assert [spec.name for spec in graph.outputs] == ["y"]
    assert graph.run([random(2, 32)]).outputs[0].shape == (2, 3)
    assert graph.notes == (
        "output 'label' of LabelEncoder is left out: it holds strings",
        "output 'scores' is a list of maps; its numbers are output 'y'",
    )


def test_no_numbers_at_all() -> None:
    with pytest.raises(ModelError, match="output 'pieces' of SplitToSequence is a sequence of tensors; the compiler gives tensors"):
        OnnxGraph.from_proto(pieces(), numbers=True)


def test_strings_that_go_in() -> None:
    nodes = [helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0])]
    proto = models.model(nodes, {"x": ["n"]}, {"y": ["n"]}, opset=17)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert OnnxGraph.from_proto(proto).inputs[0].dtype == "object"
    with pytest.raises(ModelError, match="input 'x' holds strings; the compiler takes"):
        OnnxGraph.from_proto(proto, numbers=True)


def test_an_input_without_a_rank_asks_for_one() -> None:
    proto = models.model([node("MatMul", "x w", "y")], {"x": None}, {"y": None}, {"w": random(32, 3)})
    with pytest.raises(ModelError, match=r"input 'x' has no shape, .* input_shapes=\{'x': "):
        OnnxGraph.from_proto(proto)
    graph = OnnxGraph.from_proto(proto, {"x": (2, 32)})
    assert graph.inputs[0].shape == (2, 32)
    assert graph.run([random(2, 32)]).outputs[0].shape == (2, 3)
    with pytest.raises(InputError, match="no input 'z'"):
        OnnxGraph.from_proto(proto, {"x": (2, 32), "z": (1,)})
