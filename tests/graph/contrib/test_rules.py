from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.contrib import LAYERS, RULES, take_apart
from tests.graph.contrib.apart import floats, single
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
