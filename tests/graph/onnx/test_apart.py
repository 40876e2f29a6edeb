from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.apart import risks
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph.onnx_models import model, node

LEAST = int(np.iinfo(np.int32).min)


def divided(a: int, b: int, op_type: str = "Div", computed: bool = False) -> onnx.ModelProto:
    """x + a / b, folded when the model is read."""
    nodes = [node("Neg", "c", "b")] if computed else []
    nodes += [node(op_type, "a b", "q"), node("Cast", "q", "f", to=TensorProto.FLOAT), node("Add", "x f", "y")]
    return model(
        nodes,
        {"x": [1]},
        {"y": [1]},
        {"a": np.array([a], np.int32), **({"c": np.array([-b], np.int32)} if computed else {"b": np.array([b], np.int32)})},
    )


@pytest.mark.parametrize(
    ("proto", "found"),
    [
        (divided(7, 2), []),
        (divided(7, -1), ["Div 'q'"]),
        (divided(7, 0, "Mod"), ["Mod 'q'"]),
        (divided(7, 2, computed=True), ["Div 'q'"]),
        (model([node("Div", "x w", "y")], {"x": [1]}, {"y": [1]}, {"w": np.array([0], np.float32)}), []),
        (model([node("Sqrt", "w", "r"), node("Div", "w r", "y")], {"x": [1]}, {"y": [1]}, {"w": np.array([2], np.float32)}), []),
        (model([node("Cast", "x", "i", to=TensorProto.INT32), node("Div", "i i", "y")], {"x": [1]}, {"y": [1]}), []),
    ],
    ids=["harmless", "by -1", "by 0", "computed", "float", "computed float", "not folded"],
)
def test_what_may_end_the_process(proto: onnx.ModelProto, found: list[str]) -> None:
    assert risks(proto) == found


def test_folding_that_ends_the_process_ends_another_one() -> None:
    message = r"^model 'test': folding its constants ends by SIGFPE, as onnxruntime would; look at what Div 'q' divides by$"
    with pytest.raises(ModelError, match=message):
        OnnxGraph.from_proto(divided(LEAST, -1))


def test_folding_there_gives_the_same() -> None:
    graph = OnnxGraph.from_proto(divided(8, -1))
    assert [found.op_type for found in graph.model.graph] == ["Add"]
    constants = [numpy_helper.to_array(tensor) for tensor in graph.proto().graph.initializer]
    assert [array.tolist() for array in constants] == [[-8.0]]
