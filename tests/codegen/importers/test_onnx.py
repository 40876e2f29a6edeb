from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.codegen.importers.onnx import import_onnx
from sparsecc.errors import ModelError


def model(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    """x f32[2, 4] -> y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_becomes_a_function() -> None:
    imported = import_onnx(model([helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.ones((4, 3), np.float32)))
    [parameter] = imported.module["main"].params
    assert [int(size) for size in parameter.ty.shape] == [2, 4]
    assert [int(size) for size in imported.module["main"].ret_ty.shape] == [2, 3]


def test_every_missing_operator_is_listed_with_a_place() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="first"),
        helper.make_node("Det", ["a"], ["b"], name="second"),
        helper.make_node("StringNormalizer", ["b"], ["y"]),
    ]
    with pytest.raises(ModelError) as raised:
        import_onnx(model(nodes), "m.onnx")
    assert str(raised.value) == "m.onnx: the compiler has no operator for: Det (at 'first'), StringNormalizer (at 'y')"


def test_shapes_that_do_not_fit_name_the_operator() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    with pytest.raises(ModelError, match=r"^m\.onnx: the compiler cannot take MatMul \(at 'fc'\): ") as raised:
        import_onnx(model([node], w=np.ones((5, 3), np.float32)), "m.onnx")
    assert "\n" not in str(raised.value) and "Metadata" not in str(raised.value)
    assert " 4 and 5 are not equal" in str(raised.value)
