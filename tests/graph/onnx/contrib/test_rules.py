from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.contrib import LAYERS, RULES, take_apart
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph.onnx.contrib.apart import floats, integers, single
from tests.graph.onnx_models import run


def chain() -> onnx.ModelProto:
    """A second operator whose rank is known once the first is taken apart."""
    nodes = [
        helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft"),
        helper.make_node("FusedMatMul", ["h", "h"], ["y"], domain="com.microsoft", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "chain", [value("x", TensorProto.FLOAT, [2, 5, 16])], [value("y", TensorProto.FLOAT, [2, 5, 5])])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_shapes_behind_an_operator_are_known_once_it_is_gone() -> None:
    proto, x = chain(), floats(2, 5, 16, scale=0.3)
    expected = run(proto, x=x)[0]
    assert take_apart(proto)
    assert not any(node.domain for node in proto.graph.node)
    assert abs(run(proto, x=x)[0] - expected).max() < 1e-5


def test_only_layers() -> None:
    proto = chain()
    assert not take_apart(proto, everything=False)  # nothing says what rank the Gelu gives
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 5, 16]))
    assert take_apart(proto, everything=False)
    assert [node.op_type for node in proto.graph.node if node.domain] == ["Gelu"]


def test_a_model_of_standard_operators_is_left_alone() -> None:
    proto = single("Relu", "x", {"x": floats(2, 3)}, domain="")
    before = proto.SerializeToString()
    assert not take_apart(proto)
    assert proto.SerializeToString() == before


def test_large_weights_are_not_read_for_shapes() -> None:
    proto = single("FusedMatMul", "x w", {"x": floats(3, 64)}, {"w": floats(128, 64)}, transB=1)
    assert take_apart(proto)
    assert [list(numpy_helper.to_array(t).shape) for t in proto.graph.initializer if t.name == "w"] == [[128, 64]]
    assert [value.name for value in proto.graph.input] == ["x"]


def test_the_tables() -> None:
    assert set(LAYERS) < set(RULES)


def test_nodes_of_which_only_a_later_output_is_read() -> None:
    """The first is "" for both."""
    weights = {"w": integers(1, 6, 16, high=60), "r": integers(1, 4, 16, high=60), "s": np.array([0.01], np.float32), "z": integers(1)}
    proto = single("DynamicQuantizeLSTM", "x w r _ _ _ _ _ s z s z", {"x": floats(3, 1, 6)}, weights, "_ h", hidden_size=4)
    second = proto.graph.node.add()
    second.CopyFrom(proto.graph.node[0])
    second.name, second.output[1], second.input[1] = "other", "k", "w2"
    proto.graph.initializer.append(numpy_helper.from_array(weights["w"][:, ::-1].copy(), "w2"))
    proto.graph.output.append(helper.make_empty_tensor_value_info("k"))
    expected = run(proto, x=(x := floats(3, 1, 6)))
    assert take_apart(proto)
    assert all(np.array_equal(ours, oracle) for ours, oracle in zip(run(proto, x=x), expected, strict=True))


def test_a_constant_that_states_nothing() -> None:
    proto = chain()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"]))
    assert take_apart(proto)
    with pytest.raises(ModelError, match=r"^model 'chain': damaged: Constant 'k' states 0 values, not 1$"):
        OnnxGraph.from_proto(proto)


def test_types_behind_an_operator_are_known_once_it_is_gone() -> None:
    """Numbers of a float16 model are float16."""
    proto = chain()
    proto.graph.node[1].attribute.append(helper.make_attribute("alpha", 0.5))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    x = floats(2, 5, 16, scale=0.3)
    assert take_apart(proto)
    h = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert np.allclose(run(proto, x=x.astype(np.float16))[0], 0.5 * h @ h.transpose(0, 2, 1), atol=1e-2)
