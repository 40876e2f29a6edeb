"""Folding changes no result, and leaves alone what others still read."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsecc.graph.onnx import fold as onnx_fold
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random

CONV = node("Conv", "x w b", "c", kernel_shape=[1, 1])
SHAPES = {"x": ["n", 4, 3, 3]}, {"y": ["n", 6, 3, 3]}
WEIGHTS = {"w": random(6, 4, 1, 1), "b": random(6), "number": np.array([3], np.float32), "each": random(6, 1, 1), "along": random(3)}


def folded(nodes: list, shapes: tuple[dict, dict], weights: dict[str, np.ndarray], feed: np.ndarray) -> list[str]:
    """The operators left, after checking that they compute the same."""
    used = {name for op in nodes for name in op.input}
    proto = models.model(nodes, *shapes, {name: array for name, array in weights.items() if name in used})
    model = ir.serde.deserialize_model(proto)
    for fold in (onnx_fold.lift_weights, onnx_fold.unflatten_softmaxes, onnx_fold.fold_scales):
        fold(model)
    ours = models.run(ir.serde.serialize_model(model), x=feed)
    for a, b in zip(ours, models.run(proto, x=feed), strict=True):
        assert np.allclose(a, b, atol=1e-4)
    return [op.op_type for op in model.graph]


@pytest.mark.parametrize(
    ("after", "left"),
    [
        ([node("Mul", "c number", "y")], ["Conv"]),
        ([node("Mul", "each c", "y")], ["Conv"]),
        ([node("Add", "c each", "d"), node("Mul", "d number", "e"), node("Add", "number e", "y")], ["Conv"]),
        ([node("Add", "c along", "y")], ["Conv", "Add"]),
        ([node("Mul", "c c", "y")], ["Conv", "Mul"]),
        ([node("Mul", "c number", "d"), node("Add", "c d", "y")], ["Conv", "Mul", "Add"]),
    ],
)
def test_scales(after: list, left: list[str]) -> None:
    assert folded([CONV, *after], SHAPES, WEIGHTS, random(2, 4, 3, 3)) == left


def test_a_convolution_without_bias_gets_one() -> None:
    nodes = [node("Conv", "x w", "c", kernel_shape=[1, 1]), node("Add", "c each", "y")]
    assert folded(nodes, SHAPES, WEIGHTS, random(2, 4, 3, 3)) == ["Conv"]


def test_a_weight_that_others_read_is_not_scaled() -> None:
    nodes = [CONV, node("Mul", "c number", "d"), node("Conv", "x w b", "e", kernel_shape=[1, 1]), node("Add", "d e", "y")]
    assert folded(nodes, SHAPES, WEIGHTS, random(2, 4, 3, 3)) == ["Conv", "Mul", "Conv", "Add"]


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ([node("Transpose", "w", "t"), node("MatMul", "x t", "y")], ["MatMul"]),
        ([node("Transpose", "w", "t"), node("MatMul", "x t", "h"), node("MatMul", "h w", "g"), node("MatMul", "g t", "y")], None),
        ([node("Gemm", "x v b", "y", alpha=2.0, beta=0.5)], ["Gemm"]),
        ([node("Gemm", "x v", "y", alpha=2.0)], ["Gemm"]),
    ],
)
def test_weights(nodes: list, left: list[str] | None) -> None:
    weights = {"w": random(16, 32), "v": random(32, 16), "b": random(16)}
    assert folded(nodes, ({"x": ["n", 32]}, {"y": ["n", 16]}), weights, random(3, 32)) == (left or [op.op_type for op in nodes])


@pytest.mark.parametrize(("groups", "bias"), [(1, False), (2, True), (2, False)])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_batch_norms_and_what_follows_go_into_the_weight(op: str, groups: int, bias: bool) -> None:
    weight = random(8, 4 // groups, 3, 3) if op == "Conv" else random(4, 8 // groups, 3, 3)
    norm = {"scale": random(8), "shift": random(8, seed=1), "mean": random(8, seed=2), "var": abs(random(8, seed=3)) + np.float32(0.1)}
    weights = {"w": weight, **norm, "times": random(8, 1, 1), **({"b": random(8, seed=4)} if bias else {})}
    nodes = [
        node(op, "x w b" if bias else "x w", "h", group=groups),
        node("BatchNormalization", "h scale shift mean var", "n", epsilon=1e-3),
        node("Mul", "n times", "y"),
    ]
    proto = models.model(nodes, {"x": [1, 4, 5, 5]}, {"y": None}, weights)
    graph, x = OnnxGraph.from_proto(proto), random(1, 4, 5, 5)
    assert [made.op_type for made in graph.model.graph] == [op]
    assert np.allclose(graph.run([x]).outputs[0], models.run(proto, x=x)[0], atol=1e-4)


def test_names_that_no_value_has() -> None:
    """Neither inputs, nor results, nor what is inside of bodies."""
    inner = onnx.helper.make_graph([node("Neg", "a", "inside")], "b", [], [onnx.helper.make_empty_tensor_value_info("inside")])
    nodes = [node("Add", "x w", "a"), onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    proto = models.model(nodes, {"x": [2], "c": []}, {"y": [2]}, {"w": random(2)})
    graph = ir.serde.deserialize_model(proto).graph
    names = ("x", "w", "a", "y", "inside", "new")
    assert [onnx_fold.free_name(graph, name) for name in names] == ["x_1", "w_1", "a_1", "y_1", "inside_1", "new"]


def test_a_bias_takes_no_name_that_there_is() -> None:
    nodes = [
        node("Conv", "x w", "c", kernel_shape=[1, 1]),
        node("Mul", "c number", "h"),
        node("Neg", "x", "c_bias"),
        node("Relu", "h", "y"),
    ]
    nodes.append(node("Relu", "c_bias", "z"))
    assert folded(nodes, (SHAPES[0], SHAPES[1] | {"z": ["n", 4, 3, 3]}), WEIGHTS, random(2, 4, 3, 3))[0] == "Conv"
