from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from sparsecc.graph.onnx.contrib.elementwise import activated
from sparsecc.graph.onnx.contrib.parts import CannotError, Known, Parts
from tests.graph.onnx.contrib.apart import check, check_half, floats, single

X = floats(2, 5, 16)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [("Gelu", "x", {}), ("BiasGelu", "x b", {}), ("FastGelu", "x", {}), ("FastGelu", "x b", {}), ("QuickGelu", "x", {"alpha": 1.5})],
)
def test_activations(op_type: str, inputs: str, attributes: dict[str, Any]) -> None:
    check(op_type, inputs, {"x": X}, {"b": floats(16)} if "b" in inputs else {}, **attributes)


def test_a_softmax_of_several_axes_stays() -> None:
    proto = single("BiasSoftmax", "x b", {"x": X, "b": X}, axis=1)
    parts = Parts(proto.graph.node[0], Known({"x": [2, 5, 16], "b": [2, 5, 16]}, {}, {}, 18))
    from sparsecc.graph.onnx.contrib.elementwise import bias_softmax

    with pytest.raises(CannotError, match="several axes"):
        bias_softmax(parts)


@pytest.mark.parametrize("name", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Clip", ""])
def test_fused_activations_are_one_operator(name: str) -> None:
    parts = Parts(helper.make_node("FusedConv", ["x"], ["y"]), Known({}, {}, {}, 18))
    result = activated(parts, "x", name, [0.1, 0.2])
    assert [node.op_type for node in parts.nodes] == ([name] if name else [])
    assert result == ("x" if not name else parts.nodes[0].output[0])


def test_an_unknown_activation() -> None:
    parts = Parts(helper.make_node("FusedConv", ["x"], ["y"]), Known({}, {}, {}, 18))
    with pytest.raises(CannotError, match="its activation Swirl is not known"):
        activated(parts, "x", "Swirl", [])


def test_float16() -> None:
    for op_type, inputs in (("Gelu", "x"), ("BiasGelu", "x b"), ("FastGelu", "x b"), ("QuickGelu", "x")):
        check_half(op_type, inputs, {"x": X}, {"b": floats(16)} if "b" in inputs else {})


def test_a_range_without_a_step() -> None:
    check("Range", "a b", {"a": np.array(2, np.int64), "b": np.array(7, np.int64)})
    check("Range", "a b c", {"a": np.array(1, np.float32), "b": np.array(4, np.float32), "c": np.array(0.5, np.float32)})
