"""Activations are known by what they compute, however they are written."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random

NUMBERS = {
    "half": 0.5,
    "one": 1.0,
    "three": 3.0,
    "six": 6.0,
    "zero": 0.0,
    "sixth": 1 / 6,
    "root2": math.sqrt(2),
    "invroot2": 1 / math.sqrt(2),
    "rootpi": math.sqrt(2 / math.pi),
    "cubic": 0.044715,
    "quick": 1.702,
}
FORMS: dict[str, tuple[str | None, list[onnx.NodeProto]]] = {
    "relu": ("relu", [node("Relu", "h", "y")]),
    "erf, halved first": (
        "gelu",
        [
            node("Mul", "h half", "a"),
            node("Div", "h root2", "b"),
            node("Erf", "b", "c"),
            node("Add", "c one", "d"),
            node("Mul", "a d", "y"),
        ],
    ),
    "erf, halved last": (
        "gelu",
        [
            node("Mul", "h invroot2", "b"),
            node("Erf", "b", "c"),
            node("Add", "one c", "d"),
            node("Mul", "d h", "e"),
            node("Mul", "e half", "y"),
        ],
    ),
    "tanh with a power": (
        "gelu_tanh",
        [
            node("Pow", "h three", "a"),
            node("Mul", "a cubic", "b"),
            node("Add", "h b", "c"),
            node("Mul", "c rootpi", "d"),
            node("Tanh", "d", "e"),
            node("Add", "e one", "f"),
            node("Mul", "f h", "g"),
            node("Mul", "g half", "y"),
        ],
    ),
    "x times sigmoid": ("silu", [node("Sigmoid", "h", "a"), node("Mul", "h a", "y")]),
    "quick": ("quick_gelu", [node("Mul", "h quick", "a"), node("Sigmoid", "a", "b"), node("Mul", "b h", "y")]),
    "hard swish by clip": (
        "hardswish",
        [node("Add", "h three", "a"), node("Clip", "a zero six", "b"), node("Mul", "h b", "c"), node("Div", "c six", "y")],
    ),
    "hard swish by hard sigmoid": ("hardswish", [node("HardSigmoid", "h", "a", alpha=1 / 6, beta=0.5), node("Mul", "a h", "y")]),
    "hard sigmoid": ("hardsigmoid", [node("HardSigmoid", "h", "y", alpha=1 / 6, beta=0.5)]),
    "another slope": (None, [node("HardSigmoid", "h", "y", alpha=0.2, beta=0.5)]),
    "relu6": ("relu6", [node("Clip", "h zero six", "y")]),
    "the shortest that fits": ("relu", [node("Relu", "h", "a"), node("Mul", "a a", "y")]),
    "read by something else": (None, [node("Relu", "h", "a"), node("Neg", "h", "b"), node("Softmax", "b", "c"), node("Add", "a c", "y")]),
    "a vector is no constant": (None, [node("Add", "h vector", "y")]),
    "nothing": (None, [node("Softmax", "h", "y")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    expected, nodes = FORMS[form]
    used = {name for op in nodes for name in op.input}
    weights = {name: np.array(number, np.float32) for name, number in NUMBERS.items() if name in used}
    weights |= {"vector": random(2, 16)} if "vector" in used else {}
    proto = models.model([node("MatMul", "x w", "h"), *nodes], {"x": [2, 32]}, {"y": [2, 16]}, {"w": random(32, 16), **weights})
    (site,) = OnnxGraph.from_proto(proto).sites(Linear)
    assert site.activation == expected


def test_gelu_operator() -> None:
    for approximate, expected in (("none", "gelu"), ("tanh", "gelu_tanh")):
        nodes = [node("MatMul", "x w", "h"), node("Gelu", "h", "y", approximate=approximate)]
        proto = models.model(nodes, {"x": [2, 32]}, {"y": [2, 16]}, {"w": random(32, 16)}, opset=20)
        assert OnnxGraph.from_proto(proto).sites(Linear)[0].activation == expected


def test_an_output_is_read_by_the_caller() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "y")]
    proto = models.model(nodes, {"x": [2, 32]}, {"y": [2, 16], "h": [2, 16]}, {"w": random(32, 16)})
    assert OnnxGraph.from_proto(proto).sites(Linear)[0].activation is None
