"""Weights of an ONNX model that are no sites: what they are called and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import WeightSite
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random


def unseen(nodes: list[onnx.NodeProto], x: tuple[int, ...], y: tuple[int, ...], **weights: np.ndarray) -> list[tuple[str, str, str]]:
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": x}, {"y": y}, weights))
    assert graph.sites(WeightSite) == []
    return [(weight.name, weight.kind, weight.reason) for weight in graph.unseen()]


CASES = {
    "a 3-D convolution": (
        [helper.make_node("Conv", ["x", "w"], ["y"], name="c")],
        ((1, 4, 5, 5, 5), (1, 8, 3, 3, 3)),
        {"w": random(8, 4, 3, 3, 3)},
        [("c", "Conv3d", "3-D convolutions have no sparse operator")],
    ),
    "a transposed convolution": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="c")],
        ((1, 8, 5), (1, 4, 7)),
        {"w": random(8, 4, 3)},
        [("c", "ConvTranspose1d", "transposed convolutions have no sparse operator")],
    ),
    "a recurrent layer": (
        [helper.make_node("GRU", ["x", "w", "r"], ["y"], name="c", hidden_size=4)],
        ((5, 1, 8), (5, 1, 1, 4)),
        {"w": random(1, 12, 8), "r": random(1, 12, 4)},
        [("c", "GRU", "recurrent layers have no sparse operator"), ("c_1", "GRU", "recurrent layers have no sparse operator")],
    ),
    "what is added": (
        [node("Add", "x w", "y")],
        ((1, 8, 6), (1, 8, 6)),
        {"w": random(8, 6)},
        [("w", "Add", "read by Add, which is no layer that passes know")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_no_pass_takes_is_named_with_its_reason(case: str) -> None:
    nodes, (x, y), weights, expected = CASES[case]
    assert unseen(nodes, x, y, **weights) == expected


def test_a_table_and_a_weight_that_is_quantized_already() -> None:
    nodes = [
        node("Gather", "table x", "h"),
        node("DynamicQuantizeLinear", "h", "q"),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"], name="fc"),
        node("Cast", "i", "y", to=TensorProto.FLOAT),
    ]
    nodes[1].output.extend(["scale", "zero"])
    weights = {"table": random(9, 8), "w": np.ones((8, 4), np.int8)}
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = {weight.name: weight for weight in OnnxGraph.from_proto(model).unseen()}
    assert {name: weight.kind for name, weight in found.items()} == {"table": "Embedding", "fc": "MatMulInteger"}
    assert found["fc"].reason == "int8, not floating point: it was quantized before"
    assert (found["fc"].nbytes, found["fc"].sparsity) == (32, 0.0)


def test_weights_in_and_for_the_bodies_of_an_if() -> None:
    inside, outside = numpy_helper.from_array(random(8, 8), "own"), numpy_helper.from_array(random(8, 8), "outer")
    branches = [
        helper.make_graph(
            [node("MatMul", f"x {name}", name[0])], name, [], [helper.make_tensor_value_info(name[0], TensorProto.FLOAT, None)], held
        )
        for name, held in (("own", [inside]), ("outer", []))
    ]
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], name="choice", then_branch=branches[0], else_branch=branches[1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 8]), helper.make_tensor_value_info("yes", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 8])],
        [outside],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = OnnxGraph.from_proto(model).unseen()
    assert sorted(weight.name for weight in found) == ["outer", "own"]
    assert {weight.reason for weight in found} == {"inside the body of the If 'choice', which no pass enters"}


def test_bytes_that_a_cast_and_a_product_make_floats() -> None:
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("Mul", "f s", "d"), node("MatMul", "x d", "y")]
    nodes[-1].name = "c"
    [(name, kind, _)] = unseen(nodes, (2, 256), (2, 256), w=np.ones((256, 256), np.int8), s=random(1, 256))
    assert (name, kind) == ("c", "MatMul")
