from __future__ import annotations

import numpy as np
import onnx
import pytest

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.codegen.importers.onnx.sizes import data_dependent
from sparsecc.errors import ModelError
from tests.graph.onnx_models import model, node

N = "n", "m"


@pytest.mark.parametrize(
    ("op_type", "inputs", "said"),
    [
        ("NonZero", "x", "how many values are not zero"),
        ("Unique", "x", "how many values differ"),
        ("Compress", "x x", "how many values it keeps"),
        ("NonMaxSuppression", "x x", "how many boxes it keeps"),
        ("Slice", "x x w", "its starts"),
        ("Slice", "x x x", "its starts, ends"),
        ("Expand", "x x", "its shape"),
        ("Tile", "x x", "its repeats"),
        ("Range", "x w w", "its start"),
        ("ConstantOfShape", "x", "its shape"),
        ("TopK", "x x", "its k"),
        ("Pad", "x x", "its pads"),
        ("ReduceSum", "x x", "its axes"),
        ("If", "x", "its condition"),
    ],
)
def test_what_data_decide(op_type: str, inputs: str, said: str) -> None:
    graph = model([node(op_type, inputs, "y")], {"x": [2, 4]}, {"y": N}, {"w": np.ones(1, np.int64)}).graph
    assert data_dependent(graph) == [f"{op_type} (at 'y'): data decide {said}"]


def test_sizes_of_values_are_known() -> None:
    """Whatever flows in; and what is computed from them alone."""
    nodes = [
        node("Tanh", "x", "h"),
        node("Shape", "h", "s"),
        node("Mul", "s two", "t"),
        node("Expand", "h t", "e"),
        node("Slice", "e one two", "y"),
    ]
    weights = {"one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    assert data_dependent(model(nodes, {"x": [2, 4]}, {"y": N}, weights).graph) == []
    nodes[2] = node("NonZero", "h", "t")
    assert [found.split(" ")[0] for found in data_dependent(model(nodes, {"x": [2, 4]}, {"y": N}, weights).graph)] == ["NonZero", "Expand"]


def test_all_are_named_in_one_error() -> None:
    proto = model([node("NonZero", "x", "a"), node("Tile", "x a", "y")], {"x": [2, 4]}, {"y": N})
    proto.graph.node[1].name = "repeat"
    message = (
        r"^m\.onnx: the compiler needs sizes that are fixed before the model runs: NonZero \(at 'a'\): data decide how many values are "
        r"not zero; Tile \(at 'repeat'\): data decide its repeats$"
    )
    with pytest.raises(ModelError, match=message):
        import_onnx(proto, "m.onnx")


def test_random_numbers_are_data() -> None:
    draw = onnx.helper.make_node("RandomUniform", [], ["r"], shape=[1])
    assert data_dependent(model([draw, node("Tile", "x r", "y")], {"x": [2]}, {"y": N}).graph) == ["Tile (at 'y'): data decide its repeats"]
