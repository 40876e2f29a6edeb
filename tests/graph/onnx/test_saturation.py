"""Which products are named, by types and by the weights' values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.saturation import saturating

NARROW, WIDE = np.full((4, 4), -64, np.int8), np.full((4, 4), -65, np.int8)


def named(nodes: list[onnx.NodeProto], x: int, weight: np.ndarray) -> list[str | None]:
    constants = {"w": weight, "s": np.float32(0.1), "zx": np.uint8(128), "zw": weight.dtype.type(0), "si": np.int8(0)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", x, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)])
    )
    return [node.name for node in saturating(ir.serde.deserialize_model(model))]


INTEGER = [helper.make_node("MatMulInteger", ["x", "w", "zx"], ["y"], name="fc")]
DYNAMIC = [helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "zw"], ["y"], name="fc", domain="com.microsoft")]


def between(zero: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["x", "s", zero], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", zero], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"], name="fc"),
    ]


@pytest.mark.parametrize(
    ("nodes", "x"),
    [(INTEGER, TensorProto.UINT8), (DYNAMIC, TensorProto.FLOAT), (between("zx"), TensorProto.FLOAT), (between("si"), TensorProto.FLOAT)],
    ids=["integer", "dynamic", "unsigned", "signed"],
)
def test_eight_bits_of_signed_weights_saturate_and_seven_do_not(nodes: list[onnx.NodeProto], x: int) -> None:
    assert named(nodes, x, WIDE) == ["fc"]
    assert named(nodes, x, NARROW) == []
    assert named(nodes, x, np.full((4, 4), 255, np.uint8)) == []


def test_what_is_no_product_of_bytes_does_not() -> None:
    assert named([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], TensorProto.INT8, WIDE) == []
    assert named([between("zx")[2], helper.make_node("MatMul", ["x", "v"], ["y"])], TensorProto.FLOAT, WIDE) == []
