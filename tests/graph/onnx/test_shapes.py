"""What a computed shape is made of."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from sparsecc.graph.onnx.shapes import entries
from tests.graph import onnx_models


def graph() -> dict[str, ir.Value]:
    """Values by name."""
    constants = {name: np.array(numbers, np.int64) for name, numbers in {"one": [1], "three": [3], "minus": [-1], "zero": [0]}.items()}
    nodes = [
        onnx.helper.make_node("Shape", ["x"], ["all"]),
        onnx.helper.make_node("Shape", ["x"], ["middle"], start=1, end=3),
        onnx.helper.make_node("Slice", ["all", "one", "three"], ["sliced"]),
        onnx.helper.make_node("Gather", ["all", "index"], ["picked"]),
        onnx.helper.make_node("Unsqueeze", ["picked", "zero"], ["vector"]),
        onnx.helper.make_node("Mul", ["vector", "three"], ["product"]),
        onnx.helper.make_node("Concat", ["vector", "minus", "sliced", "product"], ["joined"], axis=0),
        onnx.helper.make_node("ConstantOfShape", ["joined"], ["y"]),
    ]
    made = onnx_models.model(nodes, {"x": ["a", "b", 4, 5]}, {"y": [None] * 5}, {**constants, "index": np.array(2, np.int64)})
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(made))
    return {value.name or "": value for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None}


def test_entries() -> None:
    values = graph()
    x = values["x"]
    assert entries(values["all"]) == [(x, 0), (x, 1), (x, 2), (x, 3)]
    assert entries(values["middle"]) == entries(values["sliced"]) == [(x, 1), (x, 2)]
    assert entries(values["picked"]) == entries(values["vector"]) == [(x, 2)]
    assert entries(values["product"]) == [None]
    assert entries(values["joined"]) == [(x, 2), -1, (x, 1), (x, 2), None]
    assert entries(values["minus"]) == [-1]
    assert entries(values["y"]) is None
    assert entries(None) is None
