"""Local functions are put where they are called, unless that never ends or never fits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, inliner

from sparsecc.errors import ModelError
from sparsecc.graph.onnx import functions as onnx_functions
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]


def calling(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    """x -> the last function -> fc -> y"""
    call = helper.make_node(functions[-1].name, ["x"], ["h"], domain="own")
    proto = models.model([call, node("MatMul", "h w", "y")], {"x": [2, 32]}, {"y": [2, 16]}, {"w": random(32, 16)})
    proto.functions.extend(functions)
    proto.opset_import.append(OPSETS[1])
    return proto


def function(name: str, *called: str) -> onnx.FunctionProto:
    """One after another: Relu, or another function."""
    names = ["a", *(f"t{place}" for place in range(1, len(called))), "b"]
    steps = zip(called, names, names[1:], strict=False)
    nodes = [helper.make_node(op, [a], [b], domain="" if op == "Relu" else "own") for op, a, b in steps]
    return helper.make_function("own", name, ["a"], ["b"], nodes, OPSETS)


def test_functions_of_functions() -> None:
    proto = calling(function("F0", "Relu"), function("F1", "F0", "F0"))
    graph, x = OnnxGraph.from_proto(proto), random(2, 32)
    assert not graph.model.functions
    assert np.allclose(graph.run([x]).outputs[0], models.run(proto, x=x)[0], atol=1e-5)


def test_functions_that_double_are_counted_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inliner, "inline_local_functions", lambda proto: pytest.fail("was inlined"))
    doubling = [function("F0", "Relu"), *(function(f"F{n}", f"F{n - 1}", f"F{n - 1}") for n in range(1, 65))]
    with pytest.raises(ModelError, match=r"its functions come to 18,446,744,073,709,551,617 operators"):
        OnnxGraph.from_proto(calling(*doubling))


def test_a_table_that_is_called_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_functions, "MOST_BYTES", 10)
    with pytest.raises(ModelError, match="operators and 0 MB"):
        OnnxGraph.from_proto(calling(function("F0", "Relu")))


@pytest.mark.parametrize("functions", [("F0", ["F0"]), ("F1", ["F0"])])
def test_a_function_that_calls_itself(functions: tuple[str, list[str]]) -> None:
    made = [function("F0", functions[0]), function("F1", *functions[1])]
    with pytest.raises(ModelError, match=r"function 'own::F[01]' calls itself, directly or through others"):
        OnnxGraph.from_proto(calling(*made))
