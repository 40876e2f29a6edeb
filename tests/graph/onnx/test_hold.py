"""What folding would make larger, or fix though it is random, stays as it is; everything else is folded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random


def operators(graph: OnnxGraph) -> list[str]:
    return [made.op_type for made in graph.model.graph]


def narrow(dtype: str = "int8") -> onnx.ModelProto:
    """Weights in a quarter of their bytes, as weight-only quantization without DequantizeLinear writes them."""
    nodes = [node("Cast", "q", "f", to=TensorProto.FLOAT), node("Mul", "f scale", "w"), node("MatMul", "x w", "y")]
    weights = {"q": np.arange(200 * 200).reshape(200, 200).astype(dtype), "scale": random(1, 200)}
    return models.model(nodes, {"x": ["n", 200]}, {"y": ["n", 200]}, weights)


@pytest.mark.parametrize(("dtype", "left"), [("int8", ["Cast", "Mul", "MatMul"]), ("float64", ["MatMul"])])
def test_weights_stay_in_the_fewest_bytes(dtype: str, left: list[str]) -> None:
    proto, x = narrow(dtype), random(2, 200)
    graph = OnnxGraph.from_proto(proto)
    assert operators(graph) == left
    assert graph.proto().ByteSize() < proto.ByteSize() + 1000
    assert np.allclose(models.run(graph.proto(), x=x)[0], models.run(proto, x=x)[0], rtol=1e-4)
    assert operators(graph.fixed({"x": (2, 200)})) == ["MatMul"]  # for code generation, which writes no file


def test_a_branch_does_not_grow_either() -> None:
    inner = narrow().graph
    branch = helper.make_graph(inner.node, "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], inner.initializer)
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "any", to=TensorProto.BOOL)]
    nodes = [*nodes, helper.make_node("If", ["any"], ["z"], then_branch=branch, else_branch=branch)]
    proto = models.model(nodes, {"x": ["n", 200]}, {"z": ["n", 200]})
    assert OnnxGraph.from_proto(proto).proto().ByteSize() < proto.ByteSize() + 1000


def test_random_numbers_are_drawn_anew() -> None:
    drawn = helper.make_node("RandomNormal", [], ["r"], shape=[4])
    proto = models.model([drawn, node("Add", "x r", "y")], {"x": ["n", 4]}, {"y": ["n", 4]})
    graph = OnnxGraph.from_proto(proto)
    assert operators(graph) == ["RandomNormal", "Add"]
    assert graph.random == "RandomNormal (at 'r')"


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("ConstantOfShape", "s", "c")], {"s": np.array([10**6, 10**6], np.int64)}),
        ([node("Mul", "a a", "s"), node("Expand", "one s", "c")], {"a": np.array([10**3, 2000], np.int64), "one": random(1)}),
        ([node("Range", "zero many one", "c")], {"zero": np.int64(0), "many": np.int64(10**12), "one": np.int64(1)}),
        ([node("Tile", "w s", "c")], {"w": random(4, 4), "s": np.array([10**6, 10**6], np.int64)}),
    ],
)
def test_what_no_machine_can_hold_is_refused(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> None:
    """Run, it would take memory until the process is killed where the system promises more than there is."""
    last = [node("ReduceMax", "c", "m", keepdims=0), node("Cast", "m", "f", to=TensorProto.FLOAT), node("Add", "x f", "y")]
    proto = models.model([*nodes, *last], {"x": [1, 4]}, {"y": [1, 4]}, weights)
    with pytest.raises(ModelError, match=rf"{nodes[-1].op_type} \(at 'c'\) makes a value of [\d.e+]+ GB"):
        OnnxGraph.from_proto(proto)


def test_a_held_value_that_is_read_twice() -> None:
    nodes = [node("Expand", "one s", "c"), node("MatMul", "x c", "a"), node("Relu", "c", "d"), node("MatMul", "a d", "y")]
    proto = models.model(nodes, {"x": [2, 300]}, {"y": [2, 300]}, {"one": random(1, 1), "s": np.array([300, 300], np.int64)})
    graph, x = OnnxGraph.from_proto(proto), random(2, 300)
    assert operators(graph).count("Expand") == 1
    assert np.allclose(models.run(graph.proto(), x=x)[0], models.run(proto, x=x)[0], rtol=1e-4)


def test_the_same_number_of_bytes_is_folded() -> None:
    proto = models.model([node("Concat", "a b", "w", axis=1), node("MatMul", "x w", "y")], {"x": ["n", 200]}, {"y": ["n", 300]})
    for name, columns in (("a", 200), ("b", 100)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random(200, columns), name))
    (site,) = OnnxGraph.from_proto(proto).sites(Linear)
    assert site.shape == (300, 200)
