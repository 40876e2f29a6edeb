from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.nodes import Names, constants, copied, first_result, replace_nodes, title
from tests.graph.onnx_models import model, node


def small() -> onnx.ModelProto:
    weights = {"w": np.ones(2, np.float32), "default": np.zeros(2, np.float32)}
    proto = model([node("Add", "x w", "a"), node("Add", "a default", "y")], {"x": [2], "default": [2]}, {"y": [2]}, weights)
    inner = helper.make_graph([node("Neg", "a", "inside")], "b", [], [helper.make_empty_tensor_value_info("inside")])
    proto.graph.node.insert(1, helper.make_node("If", ["x"], ["", "chosen"], then_branch=inner, else_branch=inner))
    return proto


def test_nodes_take_the_place_of_those_that_they_were() -> None:
    graph = small().graph
    first, *_, last = graph.node
    replace_nodes(graph, [last, first, last])
    assert [list(found.output) for found in graph.node] == [["y"], ["a"], ["y"]]


def test_constants_by_name() -> None:
    graph = small().graph
    stated = {
        "text": {"value_string": "x"},
        "one": {"value_int": 3},
        "some": {"value_floats": [1.0, 2.0]},
        "tensor": {"value": numpy_helper.from_array(np.array([4]))},
        "nothing": {},
    }
    graph.node.extend(helper.make_node("Constant", [], [name], **how) for name, how in stated.items())
    found = {name: numpy_helper.to_array(tensor).tolist() for name, tensor in constants(graph).items()}
    assert found == {"w": [1, 1], "one": 3, "some": [1, 2], "tensor": [4]}, "what callers may override is none"
    assert constants(graph)["one"].data_type == TensorProto.INT64


def test_names_that_nothing_has() -> None:
    names = Names(small().graph)
    given = [names.free(name) for name in ("new", "new", "x", "w", "inside", "chosen")]
    assert given == ["new", "new_1", "x_1", "w_1", "inside_1", "chosen_1"]


def test_what_a_node_is_called() -> None:
    branch = small().graph.node[1]
    assert (title(branch), first_result(branch)) == ("chosen", "chosen")
    named = copied(branch)
    named.name = "choice"
    assert (title(named), branch.name) == ("choice", "")
    assert (title(onnx.NodeProto(op_type="If")), first_result(onnx.NodeProto())) == ("If", "")
